#!/bin/sh
# Install Debian packages and say so first; their services are not started: the tests start servers of their own.
# usage: apt-install.sh WHY PACKAGE...
set -eu

why=$1
shift

if [ "$(id -u)" -ne 0 ]; then
    echo "$why needs packages that are missing, and only root may install them. As root:" >&2
    echo "    apt-get install --no-install-recommends $*" >&2
    exit 1
fi
if ! command -v apt-get >/dev/null; then
    echo "$why needs packages that are missing, and there is no apt-get here. Install the equivalents of: $*" >&2
    exit 1
fi

echo "$why needs: $*; installing with apt-get"
policy=/usr/sbin/policy-rc.d # Debian's own switch: 101 forbids a package to start its service
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq </dev/null
apt-get install -qq -y --no-install-recommends "$@" </dev/null >/dev/null
