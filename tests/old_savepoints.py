"""Restores savepoints of earlier revisions in the job of this checkout.

    python -m tests.old_savepoints --revision 7e6e55e --revision c3f3c19

The job of each revision runs from git history on a local stack: it gets a stream with duplicates,
late and broken events, and stops with a savepoint while windows are open. The job of this checkout
restores it, migrates the tables, and gets the rest. Passes if the audit is clean with exact counts,
and if all windows and the users' baselines in those after the savepoint equal the reference's over
the whole topic: a baseline without the part before would differ. What the model makes of these
windows is compared and reported: it differs if it reads state that the revision did not keep.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from liveprofile.flink import rest
from stack.local import Stack
from tests.support.compare import compare_with_reference
from tests.support.earlier_version import EarlierVersion
from tests.support.job_under_test import JobUnderTest
from tests.support.restored_savepoints import (
    TIMEOUT_S,
    WINDOW,
    compare_since_savepoint,
    differences_of_state,
    is_tester_flagged,
    send_rest,
    stream,
)

# Do not depend on the model of the revision.
OF_WINDOWS = {"window", "digests", "events", "amount", "reason", "late", "events_total"}


def restore(stack: Stack, revision: str, folder: Path) -> dict[str, Any]:
    """Raises AssertionError if a job does not start, or does not read its events in time."""
    version = EarlierVersion(revision, folder)
    job = JobUnderTest(stack, folder, f"from_{version.commit[:7]}", {"window": WINDOW})
    config = version.settings_file(job.config_file)
    sent = stream()
    job.id = version.cli("job", "submit", "--wait", "--config", str(config))["job_id"]
    try:
        job.send(sent.before)
        job.wait_until_caught_up(TIMEOUT_S)
        savepoint = rest.stop_with_savepoint(job.rest_url, job.id, folder.as_uri())
        job.submit("--savepoint", savepoint)
        send_rest(job, sent)
        audit, flagged = job.audit(), is_tester_flagged(job)
        whole = compare_with_reference(job.settings).differences
        since = compare_since_savepoint(job, sent)
        restarts = job.restarts()
    finally:
        job.cancel()
    windows = Counter({kind: whole[kind] for kind in OF_WINDOWS if kind in whole})
    counts = {name: audit[name] for name in sent.counts}
    state = differences_of_state(since)
    return {
        "revision": version.commit[:7],
        "ok": bool(
            audit["ok"] and counts == sent.counts and not (windows or state or restarts) and flagged
        ),
        "audit": audit,
        "expected_counts": sent.counts,
        "differences_of_windows": windows,
        "differences_of_state": state,
        "since_savepoint": since.as_json(),
        "flagged_across_savepoint": flagged,
        "restarts": restarts,
    }


def main(
    revision: Annotated[list[str], typer.Option(help="A commit of git's history; repeatable.")],
) -> None:
    """Restores savepoints of earlier revisions. Prints one line of JSON for each."""
    results = []
    with tempfile.TemporaryDirectory(prefix="liveprofile-savepoints-") as name:
        root = Path(name)
        with Stack(root / "stack") as stack:
            for number, each in enumerate(revision):
                results.append(restore(stack, each, root / str(number)))
                typer.echo(json.dumps(results[-1]))
    raise typer.Exit(0 if all(result["ok"] for result in results) else 1)


if __name__ == "__main__":
    typer.run(main)
