"""Sends many random payloads through the whole stack.

    python -m tests.fuzz --records 100000

Half of them must not stop the job (poison: types, sizes, encodings, nesting, extremes, repeated
names), half have their fields in any order and notation. Passes if the job ran without a restart,
the audit accounts for every record, and all stored and sent data equals the reference.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated, Any

import typer

from liveprofile.kafka.records import read_topic
from liveprofile.units import DAY_MS
from tests.support.job_under_test import job_on_own_stack
from tests.support.outcome import end_job
from tests.support.progress import say
from tests.support.streams.seeded import Message, payload_variants, poison_messages

CATCH_UP_TIMEOUT_S = 1_200.0
END_MS = 1_700_000_000_000 + 30 * DAY_MS  # after all events


def random_records(count: int, seed: int) -> list[Message]:
    messages = poison_messages(count // 2, seed) + payload_variants(count - count // 2, seed)
    # Duplicates are exact only if they come in one order: all of these go to one partition.
    return [Message(b"one", value) for _, value in messages]


def run_fuzz(records: int, seed: int) -> dict[str, Any]:
    with job_on_own_stack("fuzz") as job:
        say(f"sending {records} records")
        job.send(random_records(records, seed))
        job.send_heartbeats(END_MS)
        say("waiting until the job has processed them")
        job.wait_until_caught_up(CATCH_UP_TIMEOUT_S)
        outcome = end_job(job)
        reasons = Counter(
            record.headers["reason"].decode()
            for record in read_topic(job.settings, job.settings.topics.rejected)
        )
    return {
        "ok": outcome.ok,
        "records": records,
        "restarts": outcome.restarts,
        "reasons": dict(reasons.most_common()),
        "audit": outcome.audit,
        "comparison": outcome.comparison.as_json(),
    }


def main(
    records: Annotated[int, typer.Option(help="Number of records.", min=2)] = 100_000,
    seed: int = 1,
) -> None:
    """Sends random payloads through the whole stack. Prints one line of JSON."""
    result = run_fuzz(records, seed)
    typer.echo(json.dumps(result))
    raise typer.Exit(0 if result["ok"] else 1)


if __name__ == "__main__":
    typer.run(main)
