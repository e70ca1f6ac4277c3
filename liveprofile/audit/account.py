"""Accounting for every record of the input topic: what became of it, shown record by record.

Pure functions over what the caller read: the input topic, where the rejected and the late topic's
records came from, and the event digests in the stored deltas. Nothing here trusts the job's own
counters. The rules are docs/data-contract.md, section 3.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from liveprofile.config import WindowSettings
from liveprofile.events.window_times import end_ms, shift_ms
from liveprofile.ingest.translation import time_ms_of
from liveprofile.wire.tokens import BadEvent, as_id, digest, load

# How many records of a kind an answer names.
EXAMPLES = 10
NO_TIME = -(2**63)
_OFFSET_BITS = 48

EVENT, HEARTBEAT, UNREADABLE = 0, 1, 2


class StoredDelta(Protocol):
    """What is read of a stored window (liveprofile.storage.queries.UsedEvents)."""

    @property
    def user_id(self) -> str: ...
    @property
    def window_end_ms(self) -> int: ...
    @property
    def events(self) -> int: ...
    @property
    def digests(self) -> bytes: ...


class InputRecord(Protocol):
    """What is read of a Kafka record (liveprofile.kafka.offsets.Record)."""

    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp_ms(self) -> int: ...
    @property
    def value(self) -> bytes | None: ...


@dataclass(frozen=True)
class Log:
    """The input topic's N records in order of partition and offset, one array a column."""

    position: np.ndarray  # (N,) int64, see `position`
    timestamp_ms: np.ndarray  # (N,) int64, the Kafka record's
    time_ms: np.ndarray  # (N,) int64, the event's; NO_TIME if it has none that can be read
    kind: np.ndarray  # (N,) uint8: EVENT, HEARTBEAT or UNREADABLE
    event: np.ndarray  # (N,) uint64, digest of the event_id
    user: np.ndarray  # (N,) uint64, hash of the user_id
    end_ms: np.ndarray  # (N,) int64, of the user's window at time_ms; NO_TIME without it

    @property
    def claim(self) -> np.ndarray:
        """(N,) uint64: this event as used for this user; the same as `used_claims` gives."""
        return self.event ^ self.user


@dataclass(frozen=True)
class Account:
    """Counts of records; the first six add up to `in_topic`."""

    in_topic: int
    heartbeats: int
    used: int
    duplicate: int
    late: int
    rejected: int
    unaccounted: int
    open_windows: int  # of the unaccounted: their window has not closed yet
    used_twice: int  # digests stored more than once
    unknown: int  # digests stored that no record explains
    late_and_used: int  # in the late topic, yet used for want of an earlier copy
    expired: int = 0  # records before the first that the topic still holds
    lost: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64), repr=False)

    @property
    def unexplained(self) -> int:
        """Digests without a record; after some have expired it can't be told, so none."""
        return 0 if self.expired else self.unknown

    @property
    def ok(self) -> bool:
        """Every record is exactly one of the five, and nothing is used that should not be."""
        return not (self.unaccounted or self.used_twice or self.unexplained or self.late_and_used)


def position(partition: int, offset: int) -> int:
    """Partition and offset as one integer, in order of both."""
    return partition << _OFFSET_BITS | offset


def place(position: int) -> tuple[int, int]:
    """(partition, offset)"""
    return position >> _OFFSET_BITS, position & ((1 << _OFFSET_BITS) - 1)


def user_hash(user_id: str) -> int:
    """Apart from `digest`, so that an event and a user of the same name do not cancel out."""
    text = user_id.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, person=b"user").digest(), "big")


def used_claims(deltas: Iterable[StoredDelta]) -> np.ndarray:
    """(E,) uint64, one for each event that a stored delta used, in any order.

    Two different (user, event) pairs of 2 million fall together with a chance of 1 in 10 million.
    Raises ValueError for digests that are not 8 bytes each.
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


def read_log(records: Iterable[InputRecord], window: WindowSettings) -> Log:
    """Reads what the account needs of each record: 49 bytes stay of it."""
    places, stamps, times, ends = array("q"), array("q"), array("q"), array("q")
    kinds, events, users = array("B"), array("Q"), array("Q")
    for record in records:
        kind, time_ms, event, user_id = _understand(record.value)
        timed = time_ms != NO_TIME
        ends.append(end_ms(time_ms, shift_ms(user_id, window), window) if timed else NO_TIME)
        places.append(position(record.partition, record.offset))
        stamps.append(record.timestamp_ms)
        times.append(time_ms)
        kinds.append(kind)
        events.append(event)
        users.append(user_hash(user_id) if kind == EVENT else 0)
    order = np.argsort(np.frombuffer(places, np.int64), kind="stable") if places else []
    columns = (
        np.frombuffer(column, kind)[order] if len(column) else np.empty(0, kind)
        for column, kind in (
            (places, np.int64),
            (stamps, np.int64),
            (times, np.int64),
            (kinds, np.uint8),
            (events, np.uint64),
            (users, np.uint64),
            (ends, np.int64),
        )
    )
    return Log(*columns)


def _understand(value: bytes | None) -> tuple[int, int, int, str]:
    """(kind, time_ms, event, user_id); of what is no event the last two are 0 and empty."""
    try:
        event = load(value or b"")
    except BadEvent:
        return UNREADABLE, NO_TIME, 0, ""
    time_ms = time_ms_of(event.get("event_time"))
    time_ms = NO_TIME if time_ms is None else time_ms
    if event.get("event_type") == "heartbeat":
        return HEARTBEAT, time_ms, 0, ""
    event_id, user_id = as_id(event.get("event_id")), as_id(event.get("user_id"))
    if not event_id or not user_id:
        return UNREADABLE, time_ms, 0, ""
    return EVENT, time_ms, int.from_bytes(digest(event_id), "big"), user_id


def positions(places: Iterable[tuple[int, int]]) -> np.ndarray:
    """(P,) int64 of (partition, offset) pairs, sorted, each once."""
    packed = np.fromiter((position(*each) for each in places), np.int64)
    return np.unique(packed)


def account(
    log: Log,
    rejected: np.ndarray,
    late: np.ndarray,
    used: np.ndarray,
    window: WindowSettings,
    *,
    empty_partitions: int = 0,
    expired: int = 0,
) -> Account:
    """What became of each record.

    `rejected`, `late`: (P,) from `positions`, of the records those topics hold a copy of.
    `used`: (E,) from `used_claims`.
    `empty_partitions`: of the input topic; each holds event time back, unless idle ones may not.
    `expired`: how many records the topic has dropped from its beginning by retention.
    """
    is_rejected = np.isin(log.position, rejected)
    is_late = np.isin(log.position, late) & ~is_rejected
    is_heartbeat = (log.kind == HEARTBEAT) & ~is_rejected & ~is_late
    is_open = (log.kind == EVENT) & ~is_rejected & ~is_late

    stored, copies = np.unique(used, return_counts=True)
    # The first record of a user and event, in order of offset, is the one that was used.
    candidates = np.flatnonzero(is_open)
    claims, first = np.unique(log.claim[candidates], return_index=True)
    claimed = np.isin(claims, stored, assume_unique=True)
    is_used = np.zeros(len(log.position), bool)
    is_used[candidates[first[claimed]]] = True

    is_duplicate = np.zeros(len(log.position), bool)
    waiting = np.flatnonzero(is_open & ~is_used)
    is_duplicate[waiting] = _has_earlier_copy(log, waiting, np.flatnonzero(is_used | is_late))

    is_lost = ~(is_rejected | is_late | is_heartbeat | is_used | is_duplicate)
    late_claims = log.claim[is_late & (log.kind == EVENT)]
    explained = np.isin(stored, np.concatenate([claims[claimed], late_claims]))
    return Account(
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


def _has_earlier_copy(log: Log, rows: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """(R,) bool: a kept record has the same event_id and came first, or lies in another partition,
    where offsets do not tell which came first."""
    events, first = np.unique(log.event[kept], return_index=True)
    _, last = np.unique(log.event[kept][::-1], return_index=True)
    if not len(events):
        return np.zeros(len(rows), bool)
    at = np.minimum(np.searchsorted(events, log.event[rows]), len(events) - 1)
    same = events[at] == log.event[rows]
    first_place = log.position[kept[first[at]]]
    last_place = log.position[kept[len(kept) - 1 - last[at]]]
    elsewhere = (last_place >> _OFFSET_BITS) != (log.position[rows] >> _OFFSET_BITS)
    return same & ((first_place < log.position[rows]) | elsewhere)


def _late_and_used(log: Log, is_late: np.ndarray, is_used: np.ndarray, stored: np.ndarray) -> int:
    """Late records whose event is stored as used, unless an earlier copy was the one used: a copy
    sent again after `state.dedup_ttl` is late by right."""
    late = np.flatnonzero(is_late & (log.kind == EVENT))
    late = late[np.isin(log.claim[late], stored)]
    used = np.flatnonzero(is_used)
    claims, first = np.unique(log.claim[used], return_index=True)
    if not len(claims):
        return len(late)
    at = np.minimum(np.searchsorted(claims, log.claim[late]), len(claims) - 1)
    earlier = (claims[at] == log.claim[late]) & (used[first[at]] < late)
    return int((~earlier).sum())


def _in_open_windows(
    log: Log,
    is_lost: np.ndarray,
    is_valid: np.ndarray,
    window: WindowSettings,
    empty_partitions: int,
) -> int:
    """How many of the lost lie in a window that the topic's last watermark has not passed."""
    timed = is_valid & (log.time_ms != NO_TIME)
    partitions = log.position >> _OFFSET_BITS
    lasts = [log.time_ms[timed & (partitions == number)] for number in np.unique(partitions)]
    held_back = empty_partitions > 0 and not window.idle_timeout_ms
    if held_back or any(not len(times) for times in lasts):
        return int((is_lost & timed).sum())
    if not lasts:
        return 0
    watermark_ms = min(int(times.max()) for times in lasts) - window.out_of_orderness_ms
    return int((log.end_ms[is_lost & timed] > watermark_ms + 1).sum())


def late_by_the_rules(
    log: Log, lost: np.ndarray, rejected: np.ndarray, window: WindowSettings
) -> Iterator[tuple[int, int]]:
    """(position, lateness_ms) of those lost records whose window had closed when they came.

    Partitions are lined up by the records' Kafka timestamps. The watermark is the smallest over
    the partitions that hold records, so nothing is late before all of them have begun.
    """
    order = np.lexsort((log.position, log.timestamp_ms))
    place_in_order = log.position[order]
    partitions = place_in_order >> _OFFSET_BITS
    moves = ~np.isin(place_in_order, rejected)
    times = np.where(moves, log.time_ms[order], NO_TIME)
    watermark = np.full(len(order), np.iinfo(np.int64).max)
    for number in np.unique(partitions):
        mine = np.where(partitions == number, times, NO_TIME)
        np.minimum(watermark, np.maximum.accumulate(mine), out=watermark)
    begun = watermark != NO_TIME
    timed = begun & (times != NO_TIME) & np.isin(place_in_order, lost)
    reached_ms = watermark[timed] - window.out_of_orderness_ms
    late = log.end_ms[order][timed] - 1 <= reached_ms
    lateness_ms = reached_ms - times[timed]
    for where, behind_ms in zip(place_in_order[timed][late], lateness_ms[late], strict=True):
        yield int(where), int(behind_ms)


def examples(log: Log, lost: np.ndarray) -> list[dict[str, Any]]:
    """Where the first few lost records lie, for a person to look at."""
    rows = np.searchsorted(log.position, lost[:EXAMPLES])
    return [
        {
            "partition": place(int(log.position[row]))[0],
            "offset": place(int(log.position[row]))[1],
            "event_time_ms": None if log.time_ms[row] == NO_TIME else int(log.time_ms[row]),
        }
        for row in rows
    ]
