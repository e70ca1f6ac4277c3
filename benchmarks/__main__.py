"""python -m benchmarks: runs the benchmarks of docs/benchmarks.md; prints one line of JSON."""

from __future__ import annotations

from benchmarks.latency import latency
from benchmarks.support.report import run
from benchmarks.throughput import throughput
from cli.options import Commands

app = Commands(add_completion=False, pretty_exceptions_enable=False)
for command in (throughput, latency):
    app.command()(command)

if __name__ == "__main__":
    run(app)
