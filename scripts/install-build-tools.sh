#!/bin/sh
# What `make setup` needs from the system: Python 3.11 or newer that can make environments, and a C compiler.
# usage: install-build-tools.sh PYTHON
set -eu

python=$1
missing=""
if command -v "$python" >/dev/null; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
else
    missing="$missing python3 python3-venv"
fi
command -v gcc >/dev/null || missing="$missing gcc libc6-dev python3-dev"

# shellcheck disable=SC2086  # a list of words
[ -z "$missing" ] || "$(dirname "$0")/apt-install.sh" "make setup" $missing

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Tollgate needs Python 3.11 or newer; $python is $("$python" -V). Try: make setup PYTHON=python3.11" >&2
    exit 1
fi
