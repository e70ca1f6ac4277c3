"""Stored windows and events as rows that rules can be evaluated over again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import orjson
from cassandra.cluster import Session

from liveprofile.features.window_features import BEFORE_WINDOW, IN_PROFILE, window_features
from liveprofile.rules.backtest import StoredRows
from liveprofile.rules.rules import SCORE_FEATURE
from liveprofile.storage.cql import from_ms
from liveprofile.storage.queries import columns, names_of, scan_ring

BLOCK_ROWS = 5_000
Row = TypeVar("Row")


class StoredWindow(NamedTuple):
    """A row of profile_delta; `delta` is JSON."""

    user_id: str
    window_end_ms: int
    surprise: float
    active_rules: Any
    delta: str


class StoredEvent(NamedTuple):
    """A row of risk_score_by_hour."""

    user_id: str
    event_time_ms: int
    event_id: str
    event_type: str
    amount: float
    score: float
    active_rules: Any


def scan_windows(session: Session, since_ms: int, until_ms: int) -> Iterator[StoredWindow]:
    """The windows that end in this time. Raises ServiceError."""
    rows = scan_ring(
        session,
        f"SELECT {columns(StoredWindow)} FROM profile_delta",
        "AND window_end >= ? AND window_end <= ? ALLOW FILTERING",
        (from_ms(since_ms), from_ms(until_ms)),
    )
    return map(StoredWindow._make, rows)


def scan_events(session: Session, since_ms: int, until_ms: int) -> Iterator[StoredEvent]:
    """The scored events of this time. Raises ServiceError."""
    rows = scan_ring(
        session,
        f"SELECT {columns(StoredEvent)} FROM risk_score_by_hour",
        "AND event_time >= ? AND event_time <= ? ALLOW FILTERING",
        (from_ms(since_ms), from_ms(until_ms)),
        key="user_id, hour",
    )
    return map(StoredEvent._make, rows)


def window_blocks(windows: Iterable[StoredWindow]) -> Iterator[StoredRows]:
    for block in _blocks(windows):
        deltas = [orjson.loads(each.delta) for each in block]
        inside = [delta["window"] for delta in deltas]
        before = {
            name: _floats(delta["before"].get(name) for delta in deltas)
            for name in (IN_PROFILE.get(name, name) for name in BEFORE_WINDOW)
        }
        current = {
            "events": _floats(each["events"] for each in inside),
            "purchases": _floats(each["counts"].get("purchase", 0) for each in inside),
            "amount": _floats(each["amount"] for each in inside),
            "surprise": _floats(each.surprise for each in block),
        }
        yield StoredRows(
            "window",
            [each.user_id for each in block],
            [each.window_end_ms for each in block],
            [""] * len(block),
            window_features(before, current),
            [frozenset(names_of(each.active_rules)) for each in block],
        )


def event_blocks(events: Iterable[StoredEvent]) -> Iterator[StoredRows]:
    for block in _blocks(events):
        yield StoredRows(
            "event",
            [each.user_id for each in block],
            [each.event_time_ms for each in block],
            [each.event_id for each in block],
            {
                "event_type": np.array([each.event_type for each in block]),
                "amount": _floats(each.amount for each in block),
                SCORE_FEATURE: _floats(each.score for each in block),
            },
            [frozenset(names_of(each.active_rules)) for each in block],
        )


def _blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while block := list(islice(remaining, BLOCK_ROWS)):
        yield block


def _floats(values: Iterable[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)
