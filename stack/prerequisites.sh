#!/usr/bin/env bash
# Installs Python 3.11 with venv, Java 17 and Maven with apt-get if run as root on Debian, else lists
# the missing packages. COMMAND: further commands whose Debian packages have the same name.
# Usage: stack/prerequisites.sh [PYTHON [COMMAND...]]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3.11}
further=("${@:2}")

missing() {
    if ! "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' \
        2>/dev/null; then
        echo python3.11-venv
    # Python checks for Java, so this check waits for the next attempt if Python is missing.
    elif ! "$python" -c 'from liveprofile.flink import java; java.home("javac")' 2>/dev/null; then
        echo openjdk-17-jdk-headless
    fi
    command -v mvn >/dev/null || echo maven
    for each in "${further[@]}"; do
        command -v "$each" >/dev/null || echo "$each"
    done
}

may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

for attempt in first second last; do
    packages=$(missing | xargs)
    [ -z "$packages" ] && exit 0
    if [ "$attempt" = last ] || ! may_install; then
        echo "missing: $packages (names of Debian packages). Install them and run make again." >&2
        exit 1
    fi
    echo "installing $packages"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086  # one word per package
    { apt-get -qq update && apt-get -qq install --no-install-recommends -y $packages; } >/dev/null ||
        { echo "apt-get could not install: $packages" >&2; exit 1; }
done
