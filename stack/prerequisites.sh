#!/usr/bin/env bash
# Python 3.11 with venv, Java 17, Maven: installed with apt-get as root on Debian, else named.
# Usage: stack/prerequisites.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3.11}

missing() {
    if ! "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' \
        2>/dev/null; then
        echo python3.11-venv
    # Python looks for Java; without Python that has to wait for the second look.
    elif ! "$python" -c 'from liveprofile.flink import java; java.home()' 2>/dev/null; then
        echo openjdk-17-jdk-headless
    fi
    command -v mvn >/dev/null || echo maven
}

may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

for look in first second last; do
    packages=$(missing | xargs)
    [ -z "$packages" ] && exit 0
    if [ "$look" = last ] || ! may_install; then
        echo "missing: $packages (Debian's package names). Install them and run make again." >&2
        exit 1
    fi
    echo "installing $packages"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086  # one word a package
    { apt-get -qq update && apt-get -qq install --no-install-recommends -y $packages; } >/dev/null ||
        { echo "apt-get could not install: $packages" >&2; exit 1; }
done
