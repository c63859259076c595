#!/bin/sh
# Installs the proxies that the edge is measured beside (make bench-edge, make faults): Caddy, Envoy and Traefik to
# .bijou/peers, in the versions of deploy/peers.txt, and nginx and HAProxy from Debian's packages where they are missing.
# It prints their versions, and exits with 1 and a reason when something cannot be installed. It can be run again at any
# time.
#
# Needs Linux on amd64, Python 3.10 with pip, and for the Debian packages root.
set -eu
cd "$(dirname "$0")/.."

say() { echo "peers: $*" >&2; }
fail() { say "$*"; exit 1; }

[ "$(uname -sm)" = "Linux x86_64" ] || fail "the packages are for linux/amd64, this machine is $(uname -sm)"

missing=
for program in nginx haproxy; do
	[ -x "/usr/sbin/$program" ] || command -v "$program" >/dev/null || missing="$missing $program"
done
if [ -n "$missing" ]; then
	command -v apt-get >/dev/null || fail "install$missing yourself on a system other than Debian"
	[ "$(id -u)" = 0 ] || fail "installing$missing needs root: run this as root, or install them yourself"
	say "installing Debian packages:$missing"
	apt-get update -qq >&2 || say "apt-get update failed; using the package lists that are here"
	# shellcheck disable=SC2086 # a list
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2 ||
		fail "apt-get cannot install$missing"
fi

python3 -m pip --version >/dev/null 2>&1 || fail "needs Python 3.10 or newer with pip (Debian: python3-pip)"
say "installing the packages of deploy/peers.txt to .bijou/peers"
PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip install --quiet --require-hashes --no-deps \
	--only-binary :all: --upgrade --target .bijou/peers -r deploy/peers.txt || fail "pip cannot install them, see above"

PATH=.bijou/peers/envoy/_bin:.bijou/peers/bin:$PATH:/usr/sbin
say "$(haproxy -v | head -1)"
say "$(nginx -v 2>&1)"
say "$(envoy --version | grep .)"
say "Traefik $(traefik version | head -1)"
say "Caddy $(caddy version)"
