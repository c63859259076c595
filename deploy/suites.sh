#!/bin/sh
# Installs the suites that the edge is tested with (make edge-suites): programs in Go in the versions of
# tools/suites/go.mod to .bijou/suites/bin, and programs in Python in those of deploy/suites.txt to
# .bijou/suites/python. Without pip the second step is left out with a message, and their tests say so. It can be run
# again at any time.
set -eu
cd "$(dirname "$0")/.."

say() { echo "suites: $*" >&2; }

GOWORK=off GOBIN="$PWD/.bijou/suites/bin" CGO_ENABLED=0 go -C tools/suites install tool

if ! python3 -m pip --version >/dev/null 2>&1; then
	say "there is no pip for Python 3.10 or newer (Debian: python3-pip), so TLS and WebSocket are not tested"
	exit 0
fi
# Packages are for one version of Python. The file says what is installed.
want=$(python3 --version; cat deploy/suites.txt)
if [ "$want" = "$(cat .bijou/suites/python.txt 2>/dev/null)" ]; then exit 0; fi
say "installing the packages of deploy/suites.txt to .bijou/suites/python"
rm -rf .bijou/suites/python .bijou/suites/python.txt
PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip install --quiet --require-hashes --no-deps \
	--only-binary :all: --no-binary sslyze --target .bijou/suites/python -r deploy/suites.txt
printf '%s\n' "$want" >.bijou/suites/python.txt
