"""python -m benchmarks: measures the throughput (docs/benchmarks.md); prints one line of JSON."""

from __future__ import annotations

from benchmarks.support.report import run
from benchmarks.throughput import throughput
from cli.options import Commands

app = Commands(add_completion=False, pretty_exceptions_enable=False)
app.command()(throughput)

if __name__ == "__main__":
    run(app)
