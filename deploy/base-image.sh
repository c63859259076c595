#!/bin/sh
# Gets the base images of deploy/Dockerfile: golang:1.26, and node:24-slim for the pages of the console.
#
# If the engine has an image, nothing happens. If it can be pulled, it is pulled. Without access to a registry,
# a stand-in of the same name is made from this machine: its Go 1.26 (its Node.js and npm), its root certificates, and a
# shell with the few tools that deploy/Dockerfile uses, with the libraries that they load. It takes seconds. The stand-in
# has the label dev.bijou.stand-in, which `docker image inspect` shows. Remove it (docker image rm golang:1.26) to get
# the real one.
#
#   deploy/base-image.sh              try to pull first
#   deploy/base-image.sh --offline    do not pull
set -eu

OFFLINE=${1:-}
TOOLS="sh cat chmod chown cp date env ln ls mkdir mv rm touch"
CERTIFICATES=/etc/ssl/certs/ca-certificates.crt

say() { echo "base-image: $*" >&2; }
fail() { say "$*"; exit 1; }

# here succeeds if the engine has an image or can pull it.
here() {
	if docker image inspect "$1" >/dev/null 2>&1; then
		say "$1 is here"
		return 0
	fi
	[ "$OFFLINE" != --offline ] || return 1
	say "pulling $1"
	timeout 300 docker pull -q "$1" >&2 && return 0
	say "it cannot be pulled; making a stand-in from this machine"
	return 1
}

# program copies a program to $root/bin, and the libraries that it loads to where it looks for them.
program() {
	file=$(readlink -f "$(command -v "$1")")
	cp "$file" "$root/bin/$1"
	for library in $(ldd "$file" 2>/dev/null | grep -o '/[^ ]*'); do
		mkdir -p "$root$(dirname "$library")"
		cp -L "$library" "$root$library"
	done
}

# base fills a new $root with what both images need.
base() {
	[ -f "$CERTIFICATES" ] || fail "the stand-in needs $CERTIFICATES, from the package ca-certificates"
	rm -rf "$root"
	mkdir -p "$root/bin" "$root/usr/local" "$root/usr/bin" "$root/go" "$root/root" "$root/tmp" "$root/etc/ssl/certs"
	for tool in $TOOLS; do program "$tool"; done
	ln -s /bin/env "$root/usr/bin/env"
	cp -L "$CERTIFICATES" "$root$CERTIFICATES"
	echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
	chmod 1777 "$root/tmp"
}

# import makes the image $1 from $root. $2 is a text about its origin. The other arguments are options of docker import.
import() {
	image=$1 from=$2
	shift 2
	tar -C "$root" --owner=0 --group=0 --numeric-owner -c . | docker import \
		-c 'ENV HOME=/root' -c 'CMD ["sh"]' -c 'LABEL dev.bijou.stand-in=true' "$@" -m "$from of this machine" - "$image" >/dev/null
}

docker info >/dev/null 2>&1 || fail "no Docker engine answers; see deploy/engine.sh"
root=$(mktemp -d)
trap 'chmod -R u+w "$root"; rm -rf "$root"' EXIT

if ! here golang:1.26; then
	command -v go >/dev/null || fail "the stand-in needs Go 1.26 on this machine"
	version=$(GOTOOLCHAIN=local go env GOVERSION)
	case $version in
	go1.26 | go1.26.*) ;;
	*) fail "the stand-in needs Go 1.26, and this machine has $version" ;;
	esac
	base
	cp -a "$(GOTOOLCHAIN=local go env GOROOT)" "$root/usr/local/go"
	import golang:1.26 "$version" \
		-c 'ENV PATH=/go/bin:/usr/local/go/bin:/usr/bin:/bin' -c 'ENV GOPATH=/go' -c 'ENV GOTOOLCHAIN=local' -c 'WORKDIR /go'
	docker run --rm --network none golang:1.26 go version >/dev/null || fail "the stand-in does not run"
	say "made a stand-in for golang:1.26 from $version of this machine"
fi

if ! here node:24-slim; then
	command -v npm >/dev/null || fail "the stand-in needs Node.js 20 or newer, and npm, on this machine"
	version=$(node --version)
	[ "$(node -p 'parseInt(process.versions.node)')" -ge 20 ] || fail "the stand-in needs Node.js 20, and this machine has $version"
	base
	program node
	# npm is a script in a folder "npm" beside the packages that it needs, in /usr/share/nodejs or in a lib/node_modules.
	npm=$(readlink -f "$(command -v npm)")
	packages=$(dirname "${npm%/npm/bin/*}/npm")
	mkdir -p "$root$packages"
	cp -a "$packages/." "$root$packages"
	ln -s "$npm" "$root/bin/npm"
	import node:24-slim "Node.js $version" -c 'ENV PATH=/usr/bin:/bin' -c "ENV NODE_EXTRA_CA_CERTS=$CERTIFICATES"
	docker run --rm --network none node:24-slim npm --version >/dev/null || fail "the stand-in does not run"
	say "made a stand-in for node:24-slim from Node.js $version of this machine"
fi
