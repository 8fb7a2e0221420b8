#!/bin/sh
# What the tests need from the system: redis-server 7 or newer, PostgreSQL's programs and Prometheus' (promtool).
# The tests run servers of their own from these programs, on free ports; no service of the system is used.
set -eu

is_redis_7() {
    redis-server --version 2>/dev/null | grep -Eq 'v=([7-9]|[1-9][0-9])\.'
}
has_postgresql() {
    command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}

missing=""
is_redis_7 || missing="$missing redis-server"
has_postgresql || missing="$missing postgresql"
command -v prometheus >/dev/null || missing="$missing prometheus"

# shellcheck disable=SC2086  # a list of words
[ -z "$missing" ] || "$(dirname "$0")/apt-install.sh" "make test" $missing

if ! is_redis_7; then
    echo "The tests need redis-server 7 or newer; this system offers: $(redis-server --version)" >&2
    exit 1
fi
