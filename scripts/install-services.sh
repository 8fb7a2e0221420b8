#!/bin/sh
# What the tests need from the system: redis-server 7 or newer, PostgreSQL's programs and Prometheus' (promtool), of
# which they run servers of their own on free ports; what customers call with: curl, Node.js 18 or newer with npm, and
# Chromium; and what holds PDF files against PDF/A: a JDK with JAXB, for veraPDF.
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
command -v curl >/dev/null || missing="$missing curl"
command -v node >/dev/null || missing="$missing nodejs"
command -v npm >/dev/null || missing="$missing npm"
command -v chromium >/dev/null || missing="$missing chromium"
command -v javac >/dev/null || missing="$missing default-jdk-headless"
[ -e /usr/share/java/jaxb-runtime.jar ] || missing="$missing libjaxb-java"

# shellcheck disable=SC2086  # a list of words
[ -z "$missing" ] || "$(dirname "$0")/apt-install.sh" "make test" $missing

if ! is_redis_7; then
    echo "The tests need redis-server 7 or newer; this system offers: $(redis-server --version)" >&2
    exit 1
fi
if ! node -e 'process.exit(Number(parseInt(process.versions.node) < 18))'; then
    echo "The tests need Node.js 18 or newer; this system offers: $(node --version)" >&2
    exit 1
fi
