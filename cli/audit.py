"""`liveprofile events audit`: checks that every record of the input topic is accounted for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields, replace
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
from liveprofile.kafka.offsets import lag
from liveprofile.kafka.records import read_topic, send_all
from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import Settings
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import now_ms

COUNTS = [field.name for field in fields(Reconciliation) if field.type == "int"]


def audit(
    call: Call, since: SinceOption = None, state: Path | None = None, repair: bool = False
) -> None:
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
    repair: Send unaccounted records that were late by the lateness rules to the late topic.
    """
    settings = call.settings
    if state is not None:
        require_usable(state, settings.topics.events)
    plan, starts = None, archive_ends(settings)
    if since is not None or state is not None:
        plan = plan_range(settings, since, state, starts)
    elif repair:
        _require_caught_up(settings)
    first_window_ms, behind = (None, 0) if plan is None else (plan.first_window_ms, plan.behind)
    with _auditor(settings, first_window_ms, starts) as auditor:
        if plan is None:
            read_whole_topic(settings, auditor, starts)
        else:
            read_range(settings, auditor, plan)
        report = auditor.report()
        repaired = _repair(settings, auditor) if repair else 0
    encoded = audit_encoded(settings, None if plan is None else plan.outputs_since_ms)
    without_repaired = replace(report.counts, unaccounted=report.counts.unaccounted - repaired)
    ok = report.counts.ok or without_repaired.ok
    ok = ok and (encoded is None or encoded.ok)
    _store_result(settings, report.counts, ok)
    if ok and state is not None:
        write_state(state, AuditState(topic=settings.topics.events, offsets=report.next_offsets))
    counts = {name: getattr(report.counts, name) for name in COUNTS}
    counts |= {"behind": behind, "repaired": repaired}
    if encoded is not None:
        counts["encoded"] = asdict(encoded)
    document = counts | {"ok": ok, "examples": report.examples, "encoded": encoded}
    call.print(document, counts, *_advice(report.counts, repaired))
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


def _require_caught_up(settings: Settings) -> None:
    """The job would send a late record that it has not read yet to the late topic again."""
    if records_behind := lag(settings):
        raise ServiceError(
            f"the job's last checkpoint is {records_behind} records behind the end of"
            f" {settings.topics.events}: run --repair when the job has caught up"
        )


def _repair(settings: Settings, auditor: Audit) -> int:
    """Sends lost late records to the late topic, with the header `repaired`; returns the count.

    If the job ignores idle partitions, a window can drop a late event after a restore
    (docs/operate.md, known limits).
    """
    return sum(
        send_all(settings, settings.topics.late, _late(settings, lateness_ms))
        for lateness_ms in auditor.lateness_ms()
        if lateness_ms
    )


def _late(
    settings: Settings, lateness_ms: dict[tuple[int, int], int]
) -> Iterator[tuple[bytes | None, bytes | None, dict[str, str]]]:
    """Records for the late topic. lateness_ms: by partition and offset in the input topic."""
    offsets: dict[int, list[int]] = {}
    for partition, offset in lateness_ms:
        offsets.setdefault(partition, []).append(offset)
    ranges = {number: PartitionRange(min(of), max(of) + 1) for number, of in offsets.items()}
    for record in read_topic(settings, settings.topics.events, ranges):
        if (source := (record.partition, record.offset)) in lateness_ms:
            headers = {
                "lateness_ms": str(lateness_ms[source]),
                "topic": record.topic,
                "partition": str(record.partition),
                "offset": str(record.offset),
                "repaired": "true",
            }
            yield record.key, record.value, headers


def _advice(counts: Reconciliation, repaired: int) -> Iterator[str]:
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
    if counts.unaccounted > repaired + counts.open_windows:
        yield (
            "--json lists examples of unaccounted records. The job may still be catching up: see"
            " `liveprofile job status`."
        )
