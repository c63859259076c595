#!/bin/sh
# Makes `docker compose up --build` work on a Debian machine that has Go but no Docker: installs what is missing and
# starts the engine. What is there already stays as it is, so it can be run again at any time. It says what it does, and
# exits with 1 and the reason when it cannot do it.
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
	apt-get update -qq >&2 || say "apt-get update had trouble; going on with the lists that are here"
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

# plugin compiles NAME from the main package PACKAGE at VERSION, with LDFLAGS. A module of its own makes it work for those that
# `go install` refuses.
plugin() {
	command -v go >/dev/null || fail "compiling docker-$1 needs Go"
	say "compiling docker-$1 $3 from its module (a few minutes the first time)"
	work=$(mktemp -d)
	(
		cd "$work"
		export GOWORK=off GOFLAGS=-mod=mod CGO_ENABLED=0
		go mod init plugin >/dev/null 2>&1
		go get "$2@$3" >/dev/null
		mkdir -p "$plugins"
		go build -trimpath -ldflags "$4" -o "$plugins/docker-$1" "$2"
	) || { rm -rf "$work"; fail "docker-$1 does not compile"; }
	rm -rf "$work"
	docker "$1" version >/dev/null 2>&1 || fail "docker-$1 was compiled but docker does not take it from $plugins"
}

if ! docker info >/dev/null 2>&1; then
	command -v dockerd >/dev/null && command -v iptables >/dev/null || packages docker.io iptables
	start
fi
say "engine $(docker version --format '{{.Server.Version}}') answers"

# Old Compose 1 is another command, `docker-compose`; any `docker compose` is new enough.
docker compose version >/dev/null 2>&1 ||
	plugin compose github.com/docker/compose/v5/cmd "$COMPOSE" "-s -w -X github.com/docker/compose/v5/internal.Version=$COMPOSE"
# Compose refuses to build with a buildx that does not know its version.
docker buildx version >/dev/null 2>&1 ||
	plugin buildx github.com/docker/buildx/cmd/buildx "$BUILDX" "-s -w -X github.com/docker/buildx/version.Version=$BUILDX"
say "$(docker compose version), $(docker buildx version)"
