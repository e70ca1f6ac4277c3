"""`liveprofile events audit`: checks that every record of the input topic is accounted for."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import typer
from rich.console import Console
from rich.progress import track

from cli.common import Call, SinceOption
from liveprofile.kafka.records import Record
from services.event_audit.reconciliation import Reconciliation
from services.event_audit.run import COUNTS, run_audit


def audit(call: Call, since: SinceOption = None, new: bool = False) -> None:
    """Account for every record of the input topic: used, duplicate, late, corrected, rejected,
    erased or heartbeat.

    Exit code 0 if each record has exactly one of these outcomes, no event was used twice, and
    every used event has a record. Run it when the job has caught up: a record that the job has
    not stored yet counts as unaccounted.

    With --since or --new, the audit is of the records up to the job's last checkpoint, the job may
    be running, and records in open windows are no error. --since is about the arrival of a record.

    Example: `liveprofile events audit` or `liveprofile events audit --since 2h --json`

    Options:
    new: Audit only records after the last clean audit with --new, or those of --since, and note
        where the next one starts, unless there is an error.
    """
    report, encoded, behind, ok, not_stored = run_audit(
        call.settings, since, new=new, watch=_with_progress
    )
    if not_stored:
        typer.echo(f"the result is not stored: {not_stored}", err=True)
    counts: dict[str, Any] = {name: getattr(report.counts, name) for name in COUNTS}
    counts["behind"] = behind
    if encoded is not None:
        counts["encoded"] = asdict(encoded)
    document = counts | {"ok": ok, "examples": report.examples, "encoded": encoded}
    call.print(document, counts, *_advice(report.counts))
    if not ok:
        raise typer.Exit(1)


def _with_progress(records: Iterable[Record], count: int) -> Iterable[Record]:
    """Shows a bar on a terminal."""
    console = Console(stderr=True)
    return track(
        records,
        "reading",
        count,
        console=console,
        transient=True,
        update_period=0.5,
        disable=not console.is_terminal,
    )


def _advice(counts: Reconciliation) -> Iterator[str]:
    if counts.ok:
        yield "Every record is accounted for."
    if counts.open_windows and counts.of_range:
        yield "Windows are open: the next audit with --new begins with their records."
    elif counts.open_windows:
        yield (
            "Windows are open: `liveprofile serve chores`, or for past events `liveprofile"
            " events replay FILE --close-windows`, advances time and closes them."
        )
    if counts.expired:
        yield "Records have expired, so stored events without a record do not indicate an error."
    if counts.unaccounted > counts.open_windows:
        yield (
            "--json lists examples of unaccounted records. The job may still be catching up: see"
            " `liveprofile job status`."
        )
