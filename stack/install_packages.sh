#!/usr/bin/env bash
# Installs locked packages in a virtual environment, and checks the hash of each.
# TORCH_INDEX: take PyTorch from this package index, such as one of CPU builds, without its hash.
# Usage: stack/install_packages.sh PYTHON ENVIRONMENT OPTION-OF-UV...
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
export UV_PROJECT_ENVIRONMENT=$2
shift 2
if [ ! -x "$UV_PROJECT_ENVIRONMENT/bin/uv" ]; then
    "$python" -m venv "$UV_PROJECT_ENVIRONMENT"
    "$UV_PROJECT_ENVIRONMENT/bin/pip" install --require-hashes --requirement stack/uv.txt
fi
uv() { "$UV_PROJECT_ENVIRONMENT/bin/uv" --no-progress "$@"; }
if [ -z "${TORCH_INDEX:-}" ]; then
    uv sync --frozen --inexact --no-install-project "$@"
else
    install=(pip install --python "$UV_PROJECT_ENVIRONMENT/bin/python")
    uv export --quiet --frozen --no-emit-project --prune torch "$@" |
        uv "${install[@]}" --require-hashes --requirement -
    uv "${install[@]}" --index-url "$TORCH_INDEX" "$(grep -o 'torch==[0-9.]*' pyproject.toml)"
fi
