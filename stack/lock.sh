#!/usr/bin/env bash
# Writes the requirements files from the pins of pyproject.toml: all packages, direct or not, with
# the hash of each file.
# Usage: stack/lock.sh UV
set -euo pipefail
cd "$(dirname "$0")/.."
uv=$1
"$uv" lock --no-progress
write() { # FILE WHAT OPTION-OF-UV...
    local file=$1 what=$2
    shift 2
    {
        echo "# $what. Written by \`make lock\` from pyproject.toml."
        "$uv" export --quiet --frozen --no-emit-project --no-header --no-annotate "$@"
    } > "$file"
}
write requirements.txt "What the job, the read API and the console need" --extra job --extra serve
write requirements-demo.txt "What \`make demo\` needs" --extra demo
write requirements-test.txt "What tests, trainings and benchmarks need" --group test
write requirements-docs.txt "What \`make docs\` needs" --only-group docs
rm uv.lock
