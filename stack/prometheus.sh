#!/usr/bin/env bash
# Unpacks Prometheus and promtool of Debian in the folder, for the tests of monitoring/. Installing
# the package would start a server that listens on every address. On other systems it does nothing,
# and the tests that need them are skipped.
# Usage: stack/prometheus.sh FOLDER
set -euo pipefail
mkdir -p "$1"
cd "$1"
if command -v promtool >/dev/null && command -v prometheus >/dev/null; then
    mkdir -p usr/bin
    ln -sf "$(command -v promtool)" "$(command -v prometheus)" usr/bin/
elif command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    apt-get -q download prometheus || { [ "$(id -u)" = 0 ] && apt-get -q update && apt-get -q download prometheus; }
    dpkg-deb --extract prometheus_*.deb .
    rm prometheus_*.deb
else
    echo "no apt-get: the tests of alert rules are skipped. Put promtool and prometheus on the PATH."
fi
