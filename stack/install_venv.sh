#!/usr/bin/env bash
# Creates .venv with everything the project needs to run and to be tested.
# Usage: stack/install_venv.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
"$1" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check install --progress-bar off "$@"; }
pip --no-deps --require-hashes -r requirements-hashed.txt
pip -r requirements.txt -r requirements-serve.txt -r requirements-client.txt -r requirements-dev.txt -e .
pip --no-deps -r requirements-no-deps.txt
