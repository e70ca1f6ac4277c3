#!/bin/sh
# Runs the command of the container or pod; Flink's own image does the same and sets options first,
# which compose.yaml and the operator give as arguments.
exec "$@"
