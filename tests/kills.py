"""Kills the Python workers of a loaded job again and again.

    python -m tests.kills --times 50

Late events are part of the load, so some arrive right after each restart. Passes if no window
dropped an event, the audit is clean without a repair, and all output equals the reference's. It
counts the kills that Flink did not notice, after which the workers' guards restarted the job.
"""

from __future__ import annotations

import json
import math
import time
from typing import Annotated, Any

import typer

from tests.faults.jobs.loaded_job import WINDOW, open_loaded_job
from tests.support import summary
from tests.support.job_under_test import job_on_own_stack
from tests.support.progress import say


def run_kills(times: int, minutes: float = math.inf) -> dict[str, Any]:
    """Kills `times` times, fewer if `minutes` are over. Raises AssertionError if output differs
    from the reference's.
    """
    dropped = kills = unnoticed = 0
    with (
        job_on_own_stack("kills", {"window": WINDOW}) as job,
        open_loaded_job(job) as loaded_job,
    ):
        with loaded_job.load():
            deadline_s = time.monotonic() + 60 * minutes
            while kills < times and time.monotonic() < deadline_s:
                kills += 1
                with loaded_job.recovery(f"kill {kills} of {times}"):
                    unnoticed += not loaded_job.kill_worker()
                dropped += job.late_records_dropped()
                say(summary.LINES[-1])
        loaded_job.check()
        dropped += job.late_records_dropped()
        audit_report = job.audit()
    return {
        "ok": not dropped,
        "kills": kills,
        "unnoticed": unnoticed,
        "late_records_dropped": dropped,
        "audit": audit_report,
    }


def main(
    times: Annotated[int, typer.Option(help="Number of kills.", min=1)] = 50,
    minutes: Annotated[
        float, typer.Option(help="Makes no further kill after this time; default: no limit.")
    ] = math.inf,
) -> None:
    """Kills the Python workers of a loaded job again and again. Prints one line of JSON."""
    result = run_kills(times, minutes)
    typer.echo(json.dumps(result))
    raise typer.Exit(0 if result["ok"] else 1)


if __name__ == "__main__":
    typer.run(main)
