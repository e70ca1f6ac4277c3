"""`liveprofile events audit`: checks that every record of the input topic is accounted for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import typer

from cli.audit_input import (
    archive_ends,
    audit_encoded,
    erased_windows,
    plan_range,
    read_range,
    read_whole_topic,
)
from cli.common import Call, SinceOption
from liveprofile.audit.audit import Audit
from liveprofile.audit.reconciliation import Reconciliation
from liveprofile.audit.results import AuditResult, store_result
from liveprofile.audit.state_file import AuditState, require_usable, write_state
from liveprofile.errors import ServiceError
from liveprofile.feeds.users import read_merges
from liveprofile.settings import Settings
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import now_ms

COUNTS = [field.name for field in fields(Reconciliation) if field.type == "int"]


def audit(call: Call, since: SinceOption = None, state: Path | None = None) -> None:
    """Account for every record of the input topic: used, duplicate, late, corrected, rejected,
    erased or heartbeat.

    Exit code 0 if each record has exactly one of these outcomes, no event was used twice, and
    every used event has a record. Run it when the job has caught up: a record that the job has
    not stored yet counts as unaccounted.

    With --since or --state, the audit is of the records up to the job's last checkpoint, the job
    may be running, and records in open windows are no error. --since is about the arrival of a
    record; with --state it counts only if FILE does not exist.

    Example: `liveprofile events audit` or `liveprofile events audit --since 2h --json`

    Options:
    state FILE: Audit only records after those that FILE names, and note in FILE where the next
        audit must start, unless there is an error.
    """
    settings = call.settings
    if state is not None:
        require_usable(state, settings.topics.events)
    plan, starts = None, archive_ends(settings)
    if since is not None or state is not None:
        plan = plan_range(settings, since, state, starts)
    first_window_ms, behind = (None, 0) if plan is None else (plan.first_window_ms, plan.behind)
    with _auditor(settings, first_window_ms, starts) as auditor:
        if plan is None:
            read_whole_topic(settings, auditor, starts)
        else:
            read_range(settings, auditor, plan)
        report = auditor.report()
    encoded = audit_encoded(settings, None if plan is None else plan.outputs_since_ms)
    ok = report.counts.ok and (encoded is None or encoded.ok)
    _store_result(settings, report.counts, ok)
    if ok and state is not None:
        write_state(state, AuditState(topic=settings.topics.events, offsets=report.next_offsets))
    counts = {name: getattr(report.counts, name) for name in COUNTS}
    counts["behind"] = behind
    if encoded is not None:
        counts["encoded"] = asdict(encoded)
    document = counts | {"ok": ok, "examples": report.examples, "encoded": encoded}
    call.print(document, counts, *_advice(report.counts))
    if not ok:
        raise typer.Exit(1)


def run_audit(settings: Settings) -> Reconciliation:
    """Audits the whole topic, and stores the result. Raises ServiceError."""
    starts = archive_ends(settings)
    with _auditor(settings, None, starts) as auditor:
        read_whole_topic(settings, auditor, starts)
        counts = auditor.report().counts
    _store_result(settings, counts, counts.ok)
    return counts


def _auditor(settings: Settings, first_window_ms: int | None, starts: dict[int, int]) -> Audit:
    return Audit(
        settings.window,
        first_window_ms,
        archive=bool(starts),
        is_erased=erased_windows(settings),
        identities=read_merges(settings),
    )


def _store_result(settings: Settings, counts: Reconciliation, ok: bool) -> None:
    """For the console. An account that may only read still gets its audit."""
    result = AuditResult(now_ms(), ok, {name: getattr(counts, name) for name in COUNTS})
    try:
        with open_session(settings.cassandra) as session:
            store_result(session, settings.topics.events, result, settings.cassandra.history_ttl_s)
    except ServiceError as error:
        typer.echo(f"the result is not stored for the console: {error}", err=True)


def _advice(counts: Reconciliation) -> Iterator[str]:
    if counts.ok:
        yield "Every record is accounted for."
    if counts.open_windows and counts.of_range:
        yield "Windows are open: the next audit with --state begins with their records."
    elif counts.open_windows:
        yield (
            "Windows are open: `liveprofile events heartbeat`, or for past events `liveprofile"
            " events replay FILE --close-windows`, advances time and closes them."
        )
    if counts.expired:
        yield "Records have expired, so stored events without a record do not indicate an error."
    if counts.unaccounted > counts.open_windows:
        yield (
            "--json lists examples of unaccounted records. The job may still be catching up: see"
            " `liveprofile job status`."
        )
