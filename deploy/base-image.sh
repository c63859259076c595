#!/bin/sh
# Makes sure that the image golang:1.26, from which deploy/Dockerfile builds, is there.
#
# If the engine has it, nothing happens. If it can be pulled, it is pulled. Where no registry can be reached, a stand-in
# of the same name is made from this machine: its Go 1.26, its root certificates, and a shell with the few tools that
# deploy/Dockerfile uses, with the libraries they load. It takes seconds and carries the label dev.bijou.stand-in, so
# that `docker image inspect` tells the two apart. Remove it (docker image rm golang:1.26) to get the real one.
#
#   deploy/base-image.sh              ask for the registry's first
#   deploy/base-image.sh --offline    do not ask
set -eu

IMAGE=golang:1.26
WANT=go1.26
TOOLS="sh cat chmod chown cp date env ln ls mkdir mv rm touch"
CERTIFICATES=/etc/ssl/certs/ca-certificates.crt

say() { echo "base-image: $*" >&2; }
fail() { say "$*"; exit 1; }

docker info >/dev/null 2>&1 || fail "no Docker engine answers; see deploy/engine.sh"
if docker image inspect "$IMAGE" >/dev/null 2>&1; then
	say "$IMAGE is here"
	exit 0
fi
if [ "${1:-}" != --offline ]; then
	say "pulling $IMAGE"
	timeout 300 docker pull -q "$IMAGE" >&2 && exit 0
	say "it cannot be pulled; making a stand-in from this machine"
fi

command -v go >/dev/null || fail "the stand-in needs Go 1.26 on this machine"
version=$(GOTOOLCHAIN=local go env GOVERSION)
case $version in
"$WANT" | "$WANT".*) ;;
*) fail "the stand-in needs Go 1.26, and this machine has $version" ;;
esac
[ -f "$CERTIFICATES" ] || fail "the stand-in needs $CERTIFICATES, from the package ca-certificates"

root=$(mktemp -d)
trap 'chmod -R u+w "$root"; rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/usr/local" "$root/go" "$root/root" "$root/tmp" "$root/etc/ssl/certs"
for tool in $TOOLS; do
	file=$(readlink -f "$(command -v "$tool")")
	cp "$file" "$root/bin/$tool"
	# The libraries it loads, and the loader, at the paths where it looks for them.
	for library in $(ldd "$file" 2>/dev/null | grep -o '/[^ ]*'); do
		mkdir -p "$root$(dirname "$library")"
		cp -L "$library" "$root$library"
	done
done
cp -L "$CERTIFICATES" "$root$CERTIFICATES"
cp -a "$(GOTOOLCHAIN=local go env GOROOT)" "$root/usr/local/go"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
chmod 1777 "$root/tmp"
tar -C "$root" --owner=0 --group=0 --numeric-owner -c . | docker import \
	-c 'ENV PATH=/go/bin:/usr/local/go/bin:/usr/bin:/bin' -c 'ENV GOPATH=/go' -c 'ENV GOTOOLCHAIN=local' \
	-c 'ENV HOME=/root' -c 'WORKDIR /go' -c 'CMD ["sh"]' -c 'LABEL dev.bijou.stand-in=true' \
	-m "$version of this machine" - "$IMAGE" >/dev/null
docker run --rm --network none "$IMAGE" go version >/dev/null || fail "the stand-in does not run"
say "made a stand-in for $IMAGE from $version of this machine"
