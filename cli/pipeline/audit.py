"""`liveprofile audit`: proves that every record of the input topic is accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import ConfigOption, JsonOption, print_fields, print_json, read_settings

if TYPE_CHECKING:
    import numpy as np

    from liveprofile.audit.account import Account, Log
    from liveprofile.config import Settings
    from liveprofile.kafka.records import Record
    from liveprofile.kafka.topics import PartitionRange

COUNTS = (
    "in_topic", "heartbeats", "used", "duplicate", "late", "rejected", "unaccounted",
    "open_windows", "used_twice", "unknown", "late_and_used", "expired",
)  # fmt: skip


def audit(
    config: ConfigOption = None,
    json: JsonOption = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Send unaccounted records that were late by the rules to the late topic.",
        ),
    ] = False,
) -> None:
    """Account for every record of the input topic: used, duplicate, late, rejected or heartbeat.

    Exit code 0 if each is exactly one of them and no event was used twice or out of nowhere.
    Run it when the job has caught up: what it has not yet stored counts as unaccounted.
    """
    settings = read_settings(config)
    if repair:
        _require_caught_up(settings)
    account, log, rejected = take(settings)
    repaired = _repair(settings, log, account.lost, rejected) if repair else 0
    if json:
        print_json(_as_json(account, log, repaired))
    else:
        print_fields({name: getattr(account, name) for name in COUNTS})
        for line in _remarks(account, repaired, settings):
            typer.echo(line)
    if not account.ok and not (repaired and _ok_once_repaired(account, repaired)):
        raise typer.Exit(1)


def _require_caught_up(settings: Settings) -> None:
    """A late record that the job has yet to read would get to the late topic twice."""
    from liveprofile.errors import ServiceError
    from liveprofile.kafka.offsets import lag

    if behind := lag(settings):
        raise ServiceError(
            f"the job's last checkpoint is {behind} records behind the end of"
            f" {settings.topics.events}: repair when it has caught up"
        )


def take(settings: Settings) -> tuple[Account, Log, np.ndarray]:
    """The account, the input topic's records, and which of them were rejected."""
    from liveprofile.audit.account import account, positions, read_log, used_claims
    from liveprofile.kafka import offsets
    from liveprofile.kafka.records import read_topic
    from liveprofile.storage.connection import session_of
    from liveprofile.storage.queries import all_deltas

    topics = settings.topics
    # The input last: of what is still coming in, no output can then lack its record.
    with session_of(settings.cassandra) as session:
        used = used_claims(all_deltas(session))
    rejected = positions(_places(settings, topics.rejected))
    late = positions(_places(settings, topics.late))
    held = offsets.ranges(settings, topics.events)
    log = read_log(_with_bar(read_topic(settings, topics.events, held), held), settings.window)
    result = account(
        log,
        rejected,
        late,
        used,
        settings.window,
        empty_partitions=sum(part.end == 0 for part in held.values()),
        expired=sum(part.first for part in held.values()),
    )
    return result, log, rejected


def _places(settings: Settings, topic: str) -> Iterator[tuple[int, int]]:
    """Where in the input topic the records of the rejected or late topic came from."""
    from liveprofile.errors import ServiceError
    from liveprofile.kafka.records import read_topic

    for record in read_topic(settings, topic):
        try:
            origin = record.headers["topic"].decode()
            partition, offset = int(record.headers["partition"]), int(record.headers["offset"])
        except (KeyError, ValueError):
            raise ServiceError(
                f"{topic}/{record.partition} offset {record.offset} does not say where it came"
                f" from; its headers are {sorted(record.headers)}: who wrote it?"
            ) from None
        if origin == settings.topics.events:
            yield partition, offset


def _with_bar(records: Iterable[Record], held: dict[int, PartitionRange]) -> Iterator[Record]:
    from rich.console import Console
    from rich.progress import track

    total = sum(part.end - part.first for part in held.values())
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


def _repair(settings: Settings, log: Log, lost: np.ndarray, rejected: np.ndarray) -> int:
    """A restored job starts its watermark anew while its windows remember theirs, so a late row
    can pass the split and be dropped by the window. Such rows go where they belong, marked."""
    from liveprofile.audit.account import late_by_the_rules, place
    from liveprofile.kafka.records import read_topic, send_all
    from liveprofile.kafka.topics import PartitionRange

    lateness = {
        place(position): ms
        for position, ms in late_by_the_rules(log, lost, rejected, settings.window)
    }
    if not lateness:
        return 0
    spans: dict[int, PartitionRange] = {}
    for partition, offset in lateness:
        span = spans.get(partition, PartitionRange(offset, offset + 1))
        spans[partition] = PartitionRange(min(span.first, offset), max(span.end, offset + 1))
    events = read_topic(settings, settings.topics.events, spans)
    return send_all(
        settings,
        settings.topics.late,
        (
            (
                record.key,
                record.value,
                {
                    "lateness_ms": str(lateness[place_of]),
                    "topic": record.topic,
                    "partition": str(record.partition),
                    "offset": str(record.offset),
                    "repaired": "true",
                },
            )
            for record in events
            if (place_of := (record.partition, record.offset)) in lateness
        ),
    )


def _ok_once_repaired(account: Account, repaired: int) -> bool:
    from dataclasses import replace

    return replace(account, unaccounted=account.unaccounted - repaired).ok


def _as_json(account: Account, log: Log, repaired: int) -> dict[str, Any]:
    from liveprofile.audit.account import examples

    answer: dict[str, Any] = {name: getattr(account, name) for name in COUNTS}
    answer["repaired"] = repaired
    answer["ok"] = account.ok or (repaired > 0 and _ok_once_repaired(account, repaired))
    answer["examples"] = examples(log, account.lost)
    return answer


def _remarks(account: Account, repaired: int, settings: Settings) -> Iterator[str]:
    if account.ok:
        yield "Every record is accounted for."
    if account.open_windows:
        yield (
            f"{account.open_windows} lie in windows that are still open;"
            " `liveprofile replay --close-windows` moves event time on."
        )
    if account.expired:
        yield (
            f"{account.expired} records have expired from {settings.topics.events}:"
            " stored events without a record are then no sign of an error."
        )
    if repaired:
        yield f"{repaired} late records sent to {settings.topics.late}."
    if account.unaccounted > repaired + account.open_windows:
        yield "Is the job still catching up? `liveprofile status` tells; --json names examples."
