"""Classifies every record of the input topic: used, duplicate, late, rejected, heartbeat or lost.

Pure functions over data that the caller read: the input topic, the input positions of the records
in the rejected and the late topic, and the event digests in the stored deltas. They do not use the
job's own counters. The rules are in docs/data-contract.md, section 3.

Shapes: N input records, E stored event digests, P positions.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from liveprofile.config import WindowSettings
from liveprofile.events.window_times import end_ms, stagger_offset_ms
from liveprofile.ingest.translation import parse_time_ms
from liveprofile.wire.payload import BadEvent, as_id, digest, load

# The number of lost records that a report names.
MAX_EXAMPLES = 10
NO_TIME = -(2**63)
_OFFSET_BITS = 48

EVENT, HEARTBEAT, UNREADABLE = 0, 1, 2


class StoredWindow(Protocol):
    """The fields of a stored window that the audit reads (storage.queries.WindowDigests)."""

    @property
    def user_id(self) -> str: ...
    @property
    def window_end_ms(self) -> int: ...
    @property
    def events(self) -> int: ...
    @property
    def digests(self) -> bytes: ...


class InputRecord(Protocol):
    """The fields of a Kafka record that the audit reads (liveprofile.kafka.records.Record)."""

    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp_ms(self) -> int: ...
    @property
    def value(self) -> bytes | None: ...


@dataclass(frozen=True)
class InputLog:
    """The N records of the input topic in order of partition and offset, one array per column."""

    position: np.ndarray  # (N,) int64, see `position`
    timestamp_ms: np.ndarray  # (N,) int64, Kafka's record timestamp
    time_ms: np.ndarray  # (N,) int64, event time; NO_TIME if missing or unreadable
    kind: np.ndarray  # (N,) uint8: EVENT, HEARTBEAT or UNREADABLE
    event: np.ndarray  # (N,) uint64, digest of the event_id
    user: np.ndarray  # (N,) uint64, hash of the user_id
    end_ms: np.ndarray  # (N,) int64, end of the user's window at time_ms; NO_TIME without a time

    @property
    def event_key(self) -> np.ndarray:
        """(N,) uint64: a key of user and event, the same as `used_event_keys` returns."""
        return self.event ^ self.user

    @property
    def clock_ms(self) -> np.ndarray:
        """(N,) int64: the time up to which a record may advance the watermark, or NO_TIME."""
        return np.minimum(self.time_ms, self.timestamp_ms)


@dataclass(frozen=True)
class Reconciliation:
    """Counts of records. The six after `in_topic` add up to it."""

    in_topic: int
    heartbeats: int
    used: int
    duplicate: int
    late: int
    rejected: int
    unaccounted: int
    open_windows: int  # unaccounted records whose window has not closed yet
    used_twice: int  # digests stored more than once
    unknown: int  # stored digests without a record
    late_and_used: int  # records in the late topic that are stored as used, without an earlier copy
    expired: int = 0  # records that retention has removed from the topic
    lost: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64), repr=False)

    @property
    def unexplained(self) -> int:
        """Stored digests without a record; 0 if records have expired, which would explain them."""
        return 0 if self.expired else self.unknown

    @property
    def ok(self) -> bool:
        """Whether every record has exactly one class and no event is wrongly used."""
        return not (self.unaccounted or self.used_twice or self.unexplained or self.late_and_used)


def position(partition: int, offset: int) -> int:
    """Packs partition and offset into one integer that sorts by both."""
    return partition << _OFFSET_BITS | offset


def split_position(position: int) -> tuple[int, int]:
    """Returns (partition, offset)."""
    return position >> _OFFSET_BITS, position & ((1 << _OFFSET_BITS) - 1)


def user_hash(user_id: str) -> int:
    """Differs from `digest`: an event and a user with the same id must not cancel out in XOR."""
    text = user_id.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, person=b"user").digest(), "big")


def used_event_keys(deltas: Iterable[StoredWindow]) -> np.ndarray:
    """(E,) uint64: one key for each event that a stored delta used, in any order.

    Among 2 million (user, event) pairs, two share a key with a probability of 1 in 10 million.
    Raises ValueError if the digests are not 8 bytes each.
    """
    parts = []
    for delta in deltas:
        if len(delta.digests) != 8 * delta.events:
            raise ValueError(
                f"the delta that ends at {delta.window_end_ms} has {len(delta.digests)} bytes of"
                f" digests for {delta.events} events, not 8 each"
            )
        digests = np.frombuffer(delta.digests, ">u8").astype(np.uint64)
        parts.append(digests ^ np.uint64(user_hash(delta.user_id)))
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def read_input_log(records: Iterable[InputRecord], window: WindowSettings) -> InputLog:
    """Reads the columns that the audit needs: 49 bytes per record."""
    record_positions, stamps, times, ends = array("q"), array("q"), array("q"), array("q")
    kinds, events, users = array("B"), array("Q"), array("Q")
    for record in records:
        kind, time_ms, event, user_id = _parse(record.value)
        has_time = time_ms != NO_TIME
        ends.append(
            end_ms(time_ms, stagger_offset_ms(user_id, window), window) if has_time else NO_TIME
        )
        record_positions.append(position(record.partition, record.offset))
        stamps.append(record.timestamp_ms)
        times.append(time_ms)
        kinds.append(kind)
        events.append(event)
        users.append(user_hash(user_id) if kind == EVENT else 0)
    order = (
        np.argsort(np.frombuffer(record_positions, np.int64), kind="stable")
        if record_positions
        else []
    )
    columns = (
        np.frombuffer(column, dtype)[order] if len(column) else np.empty(0, dtype)
        for column, dtype in (
            (record_positions, np.int64),
            (stamps, np.int64),
            (times, np.int64),
            (kinds, np.uint8),
            (events, np.uint64),
            (users, np.uint64),
            (ends, np.int64),
        )
    )
    return InputLog(*columns)


def _parse(value: bytes | None) -> tuple[int, int, int, str]:
    """Returns (kind, time_ms, event digest, user_id); 0 and "" if the record is not an event."""
    try:
        event = load(value or b"")
    except BadEvent:
        return UNREADABLE, NO_TIME, 0, ""
    time_ms = parse_time_ms(event.get("event_time"))
    time_ms = NO_TIME if time_ms is None else time_ms
    if event.get("event_type") == "heartbeat":
        return HEARTBEAT, time_ms, 0, ""
    event_id, user_id = as_id(event.get("event_id")), as_id(event.get("user_id"))
    if not event_id or not user_id:
        return UNREADABLE, time_ms, 0, ""
    return EVENT, time_ms, int.from_bytes(digest(event_id), "big"), user_id


def positions(partitions_and_offsets: Iterable[tuple[int, int]]) -> np.ndarray:
    """(P,) int64: the positions of (partition, offset) pairs, sorted and deduplicated."""
    return np.unique(np.fromiter((position(*pair) for pair in partitions_and_offsets), np.int64))


def reconcile(
    log: InputLog,
    rejected: np.ndarray,
    late: np.ndarray,
    used: np.ndarray,
    window: WindowSettings,
    *,
    empty_partitions: int = 0,
    expired: int = 0,
) -> Reconciliation:
    """Classifies every record of the input topic and counts the classes.

    `rejected`, `late`: (P,) from `positions`, the input records that those topics hold copies of.
    `used`: (E,) from `used_event_keys`.
    `empty_partitions`: number in the input topic; each holds the watermark back unless an idle
    timeout is set.
    `expired`: number of records that retention has removed from the topic.
    """
    is_rejected = np.isin(log.position, rejected)
    is_late = np.isin(log.position, late) & ~is_rejected
    is_heartbeat = (log.kind == HEARTBEAT) & ~is_rejected & ~is_late
    is_open = (log.kind == EVENT) & ~is_rejected & ~is_late

    stored, copies = np.unique(used, return_counts=True)
    # The job uses the first record of a user and event in order of offset.
    candidates = np.flatnonzero(is_open)
    keys, first = np.unique(log.event_key[candidates], return_index=True)
    key_is_stored = np.isin(keys, stored, assume_unique=True)
    is_used = np.zeros(len(log.position), bool)
    is_used[candidates[first[key_is_stored]]] = True

    is_duplicate = np.zeros(len(log.position), bool)
    remaining = np.flatnonzero(is_open & ~is_used)
    is_duplicate[remaining] = _has_earlier_copy(log, remaining, np.flatnonzero(is_used | is_late))

    is_lost = ~(is_rejected | is_late | is_heartbeat | is_used | is_duplicate)
    late_keys = log.event_key[is_late & (log.kind == EVENT)]
    explained = np.isin(stored, np.concatenate([keys[key_is_stored], late_keys]))
    return Reconciliation(
        in_topic=len(log.position),
        heartbeats=int(is_heartbeat.sum()),
        used=int(is_used.sum()),
        duplicate=int(is_duplicate.sum()),
        late=int(is_late.sum()),
        rejected=int(is_rejected.sum()),
        unaccounted=int(is_lost.sum()),
        open_windows=_in_open_windows(log, is_lost, ~is_rejected, window, empty_partitions),
        used_twice=int((copies - 1).sum()),
        unknown=int((~explained).sum()),
        late_and_used=_late_and_used(log, is_late, is_used, stored),
        expired=expired,
        lost=log.position[is_lost],
    )


def _has_earlier_copy(log: InputLog, rows: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """For each of `rows`, whether a kept record with the same event_id arrived first.

    In another partition offsets do not give the order of arrival: any kept copy there counts.
    """
    events, first = np.unique(log.event[kept], return_index=True)
    _, last = np.unique(log.event[kept][::-1], return_index=True)
    if not len(events):
        return np.zeros(len(rows), bool)
    at = np.minimum(np.searchsorted(events, log.event[rows]), len(events) - 1)
    same = events[at] == log.event[rows]
    first_position = log.position[kept[first[at]]]
    last_position = log.position[kept[len(kept) - 1 - last[at]]]
    other_partition = (last_position >> _OFFSET_BITS) != (log.position[rows] >> _OFFSET_BITS)
    return same & ((first_position < log.position[rows]) | other_partition)


def _late_and_used(
    log: InputLog, is_late: np.ndarray, is_used: np.ndarray, stored: np.ndarray
) -> int:
    """Counts late records whose event is stored as used.

    A record whose earlier copy was used does not count: a copy that arrives after
    `state.dedup_ttl` is correctly late.
    """
    late = np.flatnonzero(is_late & (log.kind == EVENT))
    late = late[np.isin(log.event_key[late], stored)]
    used = np.flatnonzero(is_used)
    keys, first = np.unique(log.event_key[used], return_index=True)
    if not len(keys):
        return len(late)
    at = np.minimum(np.searchsorted(keys, log.event_key[late]), len(keys) - 1)
    earlier = (keys[at] == log.event_key[late]) & (used[first[at]] < late)
    return int((~earlier).sum())


def _in_open_windows(
    log: InputLog,
    is_lost: np.ndarray,
    is_valid: np.ndarray,
    window: WindowSettings,
    empty_partitions: int,
) -> int:
    """Counts lost records in windows that the topic's last watermark has not passed."""
    timed = is_valid & (log.time_ms != NO_TIME)
    partitions = log.position >> _OFFSET_BITS
    partition_times = [
        log.clock_ms[timed & (partitions == number)] for number in np.unique(partitions)
    ]
    no_watermark = empty_partitions > 0 and not window.idle_timeout_ms
    if no_watermark or any(not len(times) for times in partition_times):
        return int((is_lost & timed).sum())
    if not partition_times:
        return 0
    watermark_ms = min(int(times.max()) for times in partition_times) - window.out_of_orderness_ms
    return int((log.end_ms[is_lost & timed] > watermark_ms + 1).sum())


def expected_late_records(
    log: InputLog, lost: np.ndarray, rejected: np.ndarray, window: WindowSettings
) -> Iterator[tuple[int, int]]:
    """Yields (position, lateness_ms) of lost records whose window had closed when they arrived.

    The records' Kafka timestamps align the partitions. The watermark is the minimum over the
    partitions that hold records, so no record is late before each of them has a record.
    """
    order = np.lexsort((log.position, log.timestamp_ms))
    ordered_position = log.position[order]
    partitions = ordered_position >> _OFFSET_BITS
    advances_watermark = ~np.isin(ordered_position, rejected)
    times = np.where(advances_watermark, log.time_ms[order], NO_TIME)
    clocks = np.where(advances_watermark, log.clock_ms[order], NO_TIME)
    max_time = np.full(len(order), np.iinfo(np.int64).max)
    for number in np.unique(partitions):
        partition_times = np.where(partitions == number, clocks, NO_TIME)
        np.minimum(max_time, np.maximum.accumulate(partition_times), out=max_time)
    has_watermark = max_time != NO_TIME
    timed = has_watermark & (times != NO_TIME) & np.isin(ordered_position, lost)
    watermark_ms = max_time[timed] - window.out_of_orderness_ms
    late = log.end_ms[order][timed] - 1 <= watermark_ms
    lateness_ms = watermark_ms - times[timed]
    yield from zip(ordered_position[timed][late].tolist(), lateness_ms[late].tolist(), strict=True)


def example_records(log: InputLog, lost: np.ndarray) -> list[dict[str, Any]]:
    """Returns position and event time of the first MAX_EXAMPLES lost records."""
    rows = np.searchsorted(log.position, lost[:MAX_EXAMPLES])
    return [
        {
            "partition": split_position(int(log.position[row]))[0],
            "offset": split_position(int(log.position[row]))[1],
            "event_time_ms": None if log.time_ms[row] == NO_TIME else int(log.time_ms[row]),
        }
        for row in rows
    ]
