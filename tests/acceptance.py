"""Real data with faults mixed in, through the whole stack.

    python -m tests.acceptance FILE mappings/user_behavior.toml
    python -m tests.acceptance TRANSACTIONS mappings/complete_journey.toml --limit 300000

One per cent of copies, of late and of broken events (ten kinds) come on top of the file's. Passes
if the audit accounts for every record and all that is stored and sent equals the reference.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from liveprofile.ingest.replay import closing_time_ms, open_source
from stack.local import Stack
from tests.support.compare import compare
from tests.support.live_job import Job
from tests.support.seeded_streams import mixed

CAUGHT_UP_S = 1_200.0


def events(source: Path, mapping: Path, limit: int | None) -> Iterator[dict[str, Any]]:
    batches, translator = open_source(source, mapping, limit)
    for batch in batches:
        yield from map(orjson.loads, translator.translate(batch).values)


def say(text: str) -> None:
    typer.echo(f"acceptance: {text}", err=True)


def accept(
    source: Path, mapping: Path, limit: int | None, window: dict[str, int], seed: int, root: Path
) -> dict[str, Any]:
    originals = list(events(source, mapping, limit))
    stream = mixed(originals, seed)
    say(f"{len(stream.messages)} records, {stream.injected} of them injected")
    stack = Stack(root / "stack")
    try:
        stack.start()
        job = Job(stack, root, "acceptance", {"window": window})
        job.prepare()
        job.submit()
        say("sending")
        job.send(stream.messages)
        job.send_heartbeats(closing_time_ms(originals[-1]["event_time"], job.settings.window))
        say("waiting for the job")
        job.wait_until_caught_up(CAUGHT_UP_S)
        say("audit")
        account = job.audit()
        say("comparing with the reference")
        found = compare(job.settings)
    finally:
        stack.stop()
    return {
        "ok": bool(account["ok"] and found.ok),
        "injected": {
            "duplicates": len(stream.duplicates),
            "late": len(stream.late),
            "broken": {reason: len(at) for reason, at in sorted(stream.broken.items())},
        },
        "audit": account,
        "comparison": found.as_json(),
    }


def main(
    source: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    mapping: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    limit: Annotated[int | None, typer.Option(help="The first so many events.", min=1)] = None,
    window_ms: Annotated[int, typer.Option(help="Length of the windows.", min=1_000)] = 300_000,
    stagger_ms: Annotated[int, typer.Option(help="How far their ends are apart.", min=0)] = 0,
    seed: int = 1,
) -> None:
    """Real data with faults mixed in, through the whole stack; one line of JSON at the end."""
    with tempfile.TemporaryDirectory(prefix="liveprofile-acceptance-") as root:
        window = {"length_ms": window_ms, "stagger_ms": stagger_ms}
        found = accept(source, mapping, limit, window, seed, Path(root))
    typer.echo(json.dumps(found))
    raise typer.Exit(0 if found["ok"] else 1)


if __name__ == "__main__":
    typer.run(main)
