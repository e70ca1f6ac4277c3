"""Acceptance test: runs real data with injected faults through the whole stack.

    python -m tests.acceptance FILE mappings/user_behavior.toml
    python -m tests.acceptance TRANSACTIONS mappings/complete_journey.toml --limit 300000

Adds 1 % each of duplicates, late events and broken events (ten kinds) to those of the file. Passes
if the audit accounts for every record and all stored and sent data equals the reference.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from liveprofile.ingest.replay import closing_time_ms, open_source
from tests.support.compare import compare_with_reference
from tests.support.job_under_test import job_on_own_stack
from tests.support.progress import say
from tests.support.streams.seeded import with_faults

CATCH_UP_TIMEOUT_S = 1_200.0


def read_events(source: Path, mapping: Path, limit: int | None) -> Iterator[dict[str, Any]]:
    batches, translator = open_source(source, mapping, limit)
    for batch in batches:
        yield from map(orjson.loads, translator.translate(batch).values)


def run_acceptance(
    source: Path, mapping: Path, limit: int | None, window: dict[str, int], seed: int
) -> dict[str, Any]:
    originals = list(read_events(source, mapping, limit))
    stream = with_faults(originals, seed)
    say(f"{len(stream.messages)} records, {stream.injected} of them injected")
    with job_on_own_stack("acceptance", {"window": window}) as job:
        say("sending")
        job.send(stream.messages)
        job.send_heartbeats(closing_time_ms(originals[-1]["event_time"], job.settings.window))
        say("waiting for the job")
        job.wait_until_caught_up(CATCH_UP_TIMEOUT_S)
        say("auditing, and comparing with the reference")
        audit_report, comparison = job.audit(), compare_with_reference(job.settings)
    return {
        "ok": bool(audit_report["ok"] and comparison.ok),
        "injected": {
            "duplicates": len(stream.duplicates),
            "late": len(stream.late),
            "broken": {reason: len(indexes) for reason, indexes in sorted(stream.broken.items())},
        },
        "audit": audit_report,
        "comparison": comparison.as_json(),
    }


def main(
    source: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    mapping: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    limit: Annotated[int | None, typer.Option(help="Read only this many events.", min=1)] = None,
    window_ms: Annotated[int, typer.Option(help="Window length.", min=1_000)] = 300_000,
    stagger_ms: Annotated[
        int, typer.Option(help="Distance between the window ends of users.", min=0)
    ] = 0,
    seed: int = 1,
) -> None:
    """Runs real data with injected faults through the stack. Prints one line of JSON."""
    window = {"length_ms": window_ms, "stagger_ms": stagger_ms}
    result = run_acceptance(source, mapping, limit, window, seed)
    typer.echo(json.dumps(result))
    raise typer.Exit(0 if result["ok"] else 1)


if __name__ == "__main__":
    typer.run(main)
