#!/usr/bin/env bash
# Unpacks Prometheus and promtool of Debian in the folder, for the tests of monitoring/. Installing
# the package would start a server that listens on every address. Where that is not possible, it
# says so, and the tests that need the two are skipped.
# Usage: stack/prometheus.sh FOLDER
set -euo pipefail
mkdir -p "$1"
cd "$1"
download() { apt-get -q download prometheus; }
if command -v promtool >/dev/null && command -v prometheus >/dev/null; then
    mkdir -p usr/bin
    ln -sf "$(command -v promtool)" "$(command -v prometheus)" usr/bin/
elif ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "not Debian: put promtool and prometheus on the PATH to test the alert rules"
elif download || { [ "$(id -u)" = 0 ] && apt-get -q update && download; }; then
    dpkg-deb --extract prometheus_*.deb .
    rm prometheus_*.deb
else
    echo "apt-get cannot download prometheus: the tests of alert rules are skipped"
fi
