#!/bin/sh
# Makes `docker compose up --build` work on a Debian machine that has Go but no Docker: installs what is missing and
# starts the engine. It does not change what is installed, so it can be run again at any time. It prints what it does, and
# exits with 1 and a reason when that fails.
#
#   engine    from Debian's packages docker.io and iptables; started in a session of its own when no engine answers
#   compose   compiled from its Go module where `docker compose` is missing (Debian's own is the old version 1)
#   buildx    compiled from its Go module where `docker buildx` is missing
#
# Needs root for the engine. The plug-ins go to $DOCKER_CONFIG/cli-plugins (default ~/.docker/cli-plugins): keep that
# folder between runs and they are compiled once.
set -eu

COMPOSE=v5.6.0
BUILDX=v0.38.2
plugins=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
log=${BIJOU_DOCKERD_LOG:-/var/log/dockerd.log}

say() { echo "engine: $*" >&2; }
fail() { say "$*"; exit 1; }

# packages installs Debian packages.
packages() {
	[ "$(id -u)" = 0 ] || fail "installing $* needs root: run this as root, or install Docker yourself"
	command -v apt-get >/dev/null || fail "installing $* needs apt-get: install Docker yourself on a system other than Debian"
	say "installing Debian packages: $*"
	apt-get update -qq >&2 || say "apt-get update failed; using the package lists that are here"
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" >&2 || fail "apt-get cannot install $*"
}

# start starts the engine and waits until it answers.
start() {
	[ "$(id -u)" = 0 ] || fail "starting the engine needs root"
	say "starting dockerd, its log is $log"
	setsid dockerd >"$log" 2>&1 </dev/null &
	pid=$!
	for _ in $(seq 1 60); do
		docker info >/dev/null 2>&1 && return
		kill -0 "$pid" 2>/dev/null || break
		sleep 1
	done
	tail -20 "$log" >&2
	fail "dockerd does not answer, see above"
}

# compile compiles the given plug-ins in one temporary module, so that their common packages are compiled once. It does not
# use `go install`, which refuses one of them.
compile() {
	command -v go >/dev/null || fail "compiling docker-$* needs Go"
	say "compiling from their modules: $* (a few minutes the first time)"
	work=$(mktemp -d)
	(
		cd "$work"
		export GOWORK=off GOFLAGS=-mod=mod CGO_ENABLED=0
		go mod init plugins >/dev/null 2>&1
		mkdir -p "$plugins"
		for name; do
			case $name in
			compose) go get "github.com/docker/compose/v5/cmd@$COMPOSE" ;;
			buildx) go get "github.com/docker/buildx/cmd/buildx@$BUILDX" ;;
			esac >/dev/null
		done
		for name; do
			case $name in
			compose) go build -trimpath -ldflags "-s -w -X github.com/docker/compose/v5/internal.Version=$COMPOSE" -o "$plugins/docker-compose" github.com/docker/compose/v5/cmd ;;
			buildx) go build -trimpath -ldflags "-s -w -X github.com/docker/buildx/version.Version=$BUILDX" -o "$plugins/docker-buildx" github.com/docker/buildx/cmd/buildx ;;
			esac
		done
	) || { rm -rf "$work"; fail "$* cannot be compiled"; }
	rm -rf "$work"
	for name; do
		docker "$name" version >/dev/null 2>&1 || fail "docker-$name was compiled but docker does not take it from $plugins"
	done
}

if ! docker info >/dev/null 2>&1; then
	command -v dockerd >/dev/null && command -v iptables >/dev/null || packages docker.io iptables
	start
fi
say "engine $(docker version --format '{{.Server.Version}}') answers"

# Old Compose 1 is another command, `docker-compose`; any `docker compose` is new enough. Compose refuses to build with a
# buildx that does not know its version.
missing=
docker compose version >/dev/null 2>&1 || missing=compose
docker buildx version >/dev/null 2>&1 || missing="$missing buildx"
# shellcheck disable=SC2086 # a list
[ -z "$missing" ] || compile $missing
say "$(docker compose version), $(docker buildx version)"
