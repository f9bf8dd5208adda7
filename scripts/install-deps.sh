#!/bin/sh
# Installs redis-server, postgresql, pgbouncer and curl if they are missing, and prints a message before it does. The
# tests need pgbouncer, and the README's walk-through needs curl.
set -eu

missing=
command -v redis-server >/dev/null || missing="$missing redis-server"
command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || missing="$missing pgbouncer"
command -v curl >/dev/null || missing="$missing curl"
if ! command -v postgres >/dev/null; then
    set -- /usr/lib/postgresql/*/bin/postgres /opt/homebrew/opt/postgresql*/bin/postgres /usr/local/opt/postgresql*/bin/postgres
    found=
    for program in "$@"; do
        [ -x "$program" ] && found=yes
    done
    [ -n "$found" ] || missing="$missing postgresql"
fi
[ -n "$missing" ] || exit 0

if [ "$(uname)" = Darwin ]; then
    echo "StockStream needs$missing. Install with: brew install redis postgresql@17 pgbouncer curl" >&2
    exit 1
fi
if ! command -v apt-get >/dev/null; then
    echo "StockStream needs$missing. Install with this system's package manager, then run make again." >&2
    exit 1
fi

sudo=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "StockStream needs$missing. Install as root with: apt-get install$missing" >&2
        exit 1
    fi
    sudo=sudo
fi
echo "StockStream needs$missing: installing with apt-get${sudo:+ (sudo may ask for your password)}." >&2
echo "Debian may also start them as services, on ports 6379, 5432 and 6432. StockStream does not use those; it starts its own servers." >&2
$sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq
# shellcheck disable=SC2086 # a list of packages
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
