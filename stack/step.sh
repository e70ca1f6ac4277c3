#!/usr/bin/env bash
# Runs one step of the set-up quietly: a line when it starts, a line with time and size when it ends.
# Usage: stack/step.sh NAME FOLDER LOG COMMAND [ARGUMENT ...]
set -euo pipefail
name=$1 folder=$2 log=$3
shift 3
mkdir -p "$(dirname "$log")"
echo "$name: installing in $folder/ (log: $log)"
start=$SECONDS
if ! "$@" >"$log" 2>&1; then
    echo "$name: failed after $((SECONDS - start)) s; the end of $log:" >&2
    tail -n 20 "$log" >&2
    exit 1
fi
echo "$name: done in $((SECONDS - start)) s, $(du -sm "$folder" | cut -f1) MB"
