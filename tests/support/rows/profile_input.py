"""Makes the rows that the job's SQL passes to the profile operator, in Python.

They have the columns of the view `profile_input` (jobs/sql/profile_views.py), without
`attribute_tiles`, and serve as training rows, and to time the model, without Flink. Other tests
check what the job computes.
"""

import json
import math
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from benchmarks.load.workload import EventMessage
from liveprofile.features import baselines
from liveprofile.settings import Settings
from liveprofile.units import DAY_MS, HOUR_MS
from liveprofile.wire.histories import MEMORY_WINDOWS, PURCHASES
from liveprofile.wire.tokens import (
    EVENT,
    FIELD,
    TOKEN_CHARS_PER_WINDOW,
    TYPE_INDEX,
    TYPE_LETTERS,
    WINDOW,
)
from liveprofile.wire.window_events import amount, token
from udfs.profile.batch import ProfileBatch


def batches(
    messages: Iterator[EventMessage], settings: Settings, batch_rows: int
) -> Iterator[ProfileBatch]:
    """Yields the operator's batches for messages in order of time.

    A batch has rows of one window and at most `batch_rows` of them.
    """
    states: dict[str, UserState] = defaultdict(lambda: UserState(settings))
    length_ms = settings.window.length_ms
    events = ((json.loads(message.value), message.value.decode()) for message in messages)
    for number, group in groupby(events, lambda each: each[0]["event_time"] // length_ms):
        start_ms, end_ms = number * length_ms, (number + 1) * length_ms
        window = defaultdict(list)
        for event, payload in group:
            window[event["user_id"]].append((event, payload))
        rows = [
            (user, start_ms, end_ms, *states[user].add_window(of_user, end_ms), "")
            for user, of_user in window.items()
        ]
        for first in range(0, len(rows), batch_rows):
            yield batch_of(rows[first : first + batch_rows])


class UserHistory:
    """The windows of a user that the job keeps, and the times of purchases."""

    def __init__(self) -> None:
        self._windows: deque[str] = deque(maxlen=MEMORY_WINDOWS)
        self._purchases: deque[int] = deque(maxlen=PURCHASES)

    def add_window(self, events: list[dict[str, Any]], end_ms: int) -> tuple[str, str]:
        """Adds a window; returns the columns history and purchases of its row."""
        purchases_ms = [
            event["event_time"] for event in events if event["event_type"] == "purchase"
        ]
        if purchases_ms:
            self._purchases.append(max(purchases_ms))
        tokens = _last_tokens(EVENT.join(map(token_text, events)))
        self._windows.append(f"{end_ms}{EVENT}{tokens}")
        return WINDOW.join(self._windows), " ".join(map(str, self._purchases))


class UserState:
    """The state that the job keeps of a user: history and baseline sums."""

    def __init__(self, settings: Settings):
        self._history = UserHistory()
        self._sums = np.zeros(len(baselines.COLUMNS))
        self._tau_ms = settings.state.decay_days * DAY_MS

    def add_window(
        self, events: list[tuple[dict[str, Any], str]], end_ms: int
    ) -> tuple[str, str, str, np.ndarray, np.ndarray]:
        """Adds a window; returns the columns events, history, purchases, added and sums."""
        values = [event for event, _ in events]
        encoded = EVENT.join(
            FIELD.join((str(event["event_time"]), _letter(event), "0", "0", payload))
            for event, payload in events
        )
        window_sums = _window_sums(values, math.exp((end_ms - baselines.T0_MS) / self._tau_ms))
        self._sums = self._sums + window_sums
        return encoded, *self._history.add_window(values, end_ms), window_sums, self._sums


def _window_sums(events: list[dict[str, Any]], weight: float) -> np.ndarray:
    """The window's contribution to the baseline sums, in the order of `baselines.COLUMNS`."""
    amounts = [amount(event) for event in events if event["event_type"] == "purchase"]
    values = {"windows": 1.0, "events": float(len(events))}
    values |= baselines.purchase_sums(float(len(amounts)), sum(amounts), weight)
    for event in events:
        hours = event["event_time"] // HOUR_MS
        weekday = (hours // 24 + baselines.FIRST_WEEKDAY) % 7
        for letter in (baselines.HOUR_LETTERS[hours % 24], baselines.WEEKDAY_DIGITS[weekday]):
            name = f"activity_{letter}"
            values[name] = values.get(name, 0.0) + weight
    return np.array([values.get(name, 0.0) for name in baselines.COLUMNS])


def token_text(event: dict[str, Any]) -> str:
    """The token of an event as text."""
    time_ms, _, *others = token(event, TYPE_INDEX[event["event_type"]], event["event_time"])
    return FIELD.join(map(str, (time_ms, _letter(event), *others)))


def _letter(event: dict[str, Any]) -> str:
    return TYPE_LETTERS[TYPE_INDEX[event["event_type"]]]


def _last_tokens(tokens: str) -> str:
    """The complete tokens among the last TOKEN_CHARS_PER_WINDOW characters of a window."""
    if len(tokens) < TOKEN_CHARS_PER_WINDOW:
        return tokens
    return tokens[-TOKEN_CHARS_PER_WINDOW:].partition(EVENT)[2]


def batch_of(rows: Sequence[tuple[Any, ...]]) -> ProfileBatch:
    """rows: the fields of a batch for each."""
    user_id, start_ms, end_ms, *texts, added, sums, tiles = zip(*rows, strict=True)
    return ProfileBatch(
        list(user_id),
        np.array(start_ms),
        np.array(end_ms),
        *map(list, texts),
        np.array(added),
        np.array(sums),
        list(tiles),
    )
