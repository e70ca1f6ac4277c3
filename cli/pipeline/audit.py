"""`liveprofile audit`: checks that every record of the input topic is accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import ConfigOption, JsonOption, print_fields, print_json, read_settings

if TYPE_CHECKING:
    import numpy as np

    from liveprofile.audit.reconciliation import InputLog, Reconciliation
    from liveprofile.config import Settings
    from liveprofile.kafka.records import Record
    from liveprofile.kafka.topics import PartitionRange

COUNTS = (
    "in_topic",
    "heartbeats",
    "used",
    "duplicate",
    "late",
    "rejected",
    "unaccounted",
    "open_windows",
    "used_twice",
    "unknown",
    "late_and_used",
    "expired",
)


def audit(
    config: ConfigOption = None,
    json: JsonOption = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Send unaccounted records that were late by the lateness rules to the late topic.",
        ),
    ] = False,
) -> None:
    """Account for every record of the input topic: used, duplicate, late, rejected or heartbeat.

    Exit code 0 if each record has exactly one of these outcomes, no event was used twice, and
    every used event has a record. Run it when the job has caught up: a record that the job has
    not stored yet counts as unaccounted.
    """
    settings = read_settings(config)
    if repair:
        _require_caught_up(settings)
    counts, log, rejected = run_audit(settings)
    repaired = _repair(settings, log, counts.lost, rejected) if repair else 0
    if json:
        print_json(_as_json(counts, log, repaired))
    else:
        print_fields({name: getattr(counts, name) for name in COUNTS})
        for line in _summary_lines(counts, repaired, settings):
            typer.echo(line)
    if not counts.ok and not (repaired and _ok_after_repair(counts, repaired)):
        raise typer.Exit(1)


def _require_caught_up(settings: Settings) -> None:
    """The job would send a late record that it has not read yet to the late topic again."""
    from liveprofile.errors import ServiceError
    from liveprofile.kafka.offsets import lag

    if records_behind := lag(settings):
        raise ServiceError(
            f"the job's last checkpoint is {records_behind} records behind the end of"
            f" {settings.topics.events}: run --repair when the job has caught up"
        )


def run_audit(settings: Settings) -> tuple[Reconciliation, InputLog, np.ndarray]:
    """Returns the counts, the input topic's records and the positions of rejected records.

    Raises ServiceError.
    """
    from liveprofile.audit.reconciliation import (
        positions,
        read_input_log,
        reconcile,
        used_event_keys,
    )
    from liveprofile.kafka import offsets
    from liveprofile.kafka.records import read_topic
    from liveprofile.storage.connection import open_session
    from liveprofile.storage.queries import scan_digests

    topics = settings.topics
    # The input topic is read last, so it contains the record of every output read before.
    with open_session(settings.cassandra) as session:
        used = used_event_keys(scan_digests(session))
    rejected = positions(_source_offsets(settings, topics.rejected))
    late = positions(_source_offsets(settings, topics.late))
    ranges = offsets.partition_ranges(settings, topics.events)
    records = _with_progress_bar(read_topic(settings, topics.events, ranges), ranges)
    log = read_input_log(records, settings.window)
    counts = reconcile(
        log,
        rejected,
        late,
        used,
        settings.window,
        empty_partitions=sum(part.end == 0 for part in ranges.values()),
        expired=sum(part.first for part in ranges.values()),
    )
    return counts, log, rejected


def _source_offsets(settings: Settings, topic: str) -> Iterator[tuple[int, int]]:
    """Partition and offset in the input topic of each record of the rejected or late topic."""
    from liveprofile.errors import ServiceError
    from liveprofile.kafka.records import read_topic

    for record in read_topic(settings, topic):
        try:
            source_topic = record.headers["topic"].decode()
            partition, offset = int(record.headers["partition"]), int(record.headers["offset"])
        except (KeyError, ValueError):
            raise ServiceError(
                f"{topic}/{record.partition} offset {record.offset} has no valid source headers"
                f" (topic, partition, offset), only {sorted(record.headers)}: did another program"
                " write it?"
            ) from None
        if source_topic == settings.topics.events:
            yield partition, offset


def _with_progress_bar(
    records: Iterable[Record], ranges: dict[int, PartitionRange]
) -> Iterator[Record]:
    from rich.console import Console
    from rich.progress import track

    total = sum(part.end - part.first for part in ranges.values())
    console = Console(stderr=True)
    return iter(
        track(
            records,
            "reading",
            total,
            console=console,
            transient=True,
            update_period=0.5,
            disable=not console.is_terminal,
        )
    )


def _repair(settings: Settings, log: InputLog, lost: np.ndarray, rejected: np.ndarray) -> int:
    """Sends lost late records to the late topic, with the header `repaired`; returns the count.

    After a restore the job's watermark starts at its minimum, but the windows keep theirs. A late
    row can then pass the lateness check and be dropped by the window operator.
    """
    from liveprofile.audit.reconciliation import expected_late_records, split_position
    from liveprofile.kafka.records import read_topic, send_all
    from liveprofile.kafka.topics import PartitionRange

    lateness_ms = {
        split_position(position): ms
        for position, ms in expected_late_records(log, lost, rejected, settings.window)
    }
    if not lateness_ms:
        return 0
    ranges: dict[int, PartitionRange] = {}
    for partition, offset in lateness_ms:
        known = ranges.get(partition, PartitionRange(offset, offset + 1))
        ranges[partition] = PartitionRange(min(known.first, offset), max(known.end, offset + 1))
    events = read_topic(settings, settings.topics.events, ranges)
    return send_all(
        settings,
        settings.topics.late,
        (
            (
                record.key,
                record.value,
                {
                    "lateness_ms": str(lateness_ms[source]),
                    "topic": record.topic,
                    "partition": str(record.partition),
                    "offset": str(record.offset),
                    "repaired": "true",
                },
            )
            for record in events
            if (source := (record.partition, record.offset)) in lateness_ms
        ),
    )


def _ok_after_repair(counts: Reconciliation, repaired: int) -> bool:
    from dataclasses import replace

    return replace(counts, unaccounted=counts.unaccounted - repaired).ok


def _as_json(counts: Reconciliation, log: InputLog, repaired: int) -> dict[str, Any]:
    from liveprofile.audit.reconciliation import example_records

    result: dict[str, Any] = {name: getattr(counts, name) for name in COUNTS}
    result["repaired"] = repaired
    result["ok"] = counts.ok or (repaired > 0 and _ok_after_repair(counts, repaired))
    result["examples"] = example_records(log, counts.lost)
    return result


def _summary_lines(counts: Reconciliation, repaired: int, settings: Settings) -> Iterator[str]:
    if counts.ok:
        yield "Every record is accounted for."
    if counts.open_windows:
        yield (
            f"{counts.open_windows} records are in windows that are still open;"
            " `liveprofile replay --close-windows` sends heartbeats that close them."
        )
    if counts.expired:
        yield (
            f"{counts.expired} records have expired from {settings.topics.events}, so stored"
            " events without a record do not indicate an error."
        )
    if repaired:
        yield f"{repaired} late records sent to {settings.topics.late}."
    if counts.unaccounted > repaired + counts.open_windows:
        yield (
            "The job may still be catching up: see `liveprofile status`. --json lists examples of"
            " unaccounted records."
        )
