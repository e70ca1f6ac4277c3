#!/usr/bin/env bash
# Installs the packages of a requirements file in a virtual environment, and checks their hashes.
# TORCH_INDEX: take PyTorch from this package index, such as one of CPU builds, without its hash.
# Usage: stack/install_packages.sh PYTHON ENVIRONMENT REQUIREMENTS
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 environment=$2 requirements=$3
if [ ! -x "$environment/bin/uv" ]; then
    "$python" -m venv "$environment"
    "$environment/bin/pip" install --require-hashes --requirement stack/uv.txt
fi
install=("$environment/bin/uv" --no-progress pip install --python "$environment/bin/python")
if [ -z "${TORCH_INDEX:-}" ]; then
    "${install[@]}" --no-deps --require-hashes --requirement "$requirements"
else
    # Each package is a block of lines: its name, then its hashes.
    awk '/^[a-z]/ { skip = /^(torch|nvidia-|cuda-)/ } !skip' "$requirements" |
        "${install[@]}" --no-deps --require-hashes --requirement -
    "${install[@]}" --index-url "$TORCH_INDEX" "$(grep -o '^torch==[0-9.]*' "$requirements")"
fi
