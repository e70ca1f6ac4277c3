"""Section 3 of docs/data-contract.md in plain Python: duplicates, lateness and windows."""

import hashlib
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.reference.validation import (
    Heartbeat,
    Rejected,
    ValidEvent,
    event_clock_ms,
    read_own_types,
    validate,
)

Position = tuple[int, int]  # partition, offset
NOBODY: Mapping[str, int] = {}


class Record(NamedTuple):
    """One record of the input topic."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


@dataclass
class Classification:
    """The class of every record: each position is in exactly one of the five collections."""

    rejected: dict[Position, Rejected] = field(default_factory=dict)
    heartbeats: set[Position] = field(default_factory=set)
    duplicates: set[Position] = field(default_factory=set)
    late: set[Position] = field(default_factory=set)
    used: set[Position] = field(default_factory=set)
    watermark_ms: int | None = None
    clock_ms: dict[int, int] = field(default_factory=dict)  # of each partition


def classify(
    records: Iterable[Record],
    settings: Any,
    late: Set[Position] | None,
    too_many: Set[Position] | None,
    result: Classification,
    erased: Mapping[str, int] = NOBODY,
) -> list[ValidEvent]:
    """Fills `result`; returns the used events in arrival order.

    late: the positions of late records; None: computed from the clock of each partition.
    too_many: the positions of records that exceed the limits of their window; None: computed for
    events that arrive in the order of `records`.
    erased: user -> time in ms; the windows that begin before it are rejected.
    """
    used: list[ValidEvent] = []
    own_types = read_own_types(settings.event_types)
    seen: set[str] = set()
    counts: dict[tuple[str, int], list[int]] = {}  # (user, window end) -> events, characters
    for partition, offset, timestamp_ms, _key, value in records:
        position = (partition, offset)
        event = validate(value, timestamp_ms, settings.limits, own_types)
        if isinstance(event, Rejected):
            result.rejected[position] = event
            time_ms = event_clock_ms(value, timestamp_ms, settings.limits)
        else:
            time_ms = event.time_ms
        if isinstance(event, Heartbeat):
            result.heartbeats.add(position)
        elif isinstance(event, ValidEvent) and event.event_id in seen:
            result.duplicates.add(position)
        elif isinstance(event, ValidEvent):
            seen.add(event.event_id)
            end_ms = window_end_ms(event.user_id, time_ms, settings.window)
            if late is None:
                last_ms = end_ms - 1
                behind_ms = settings.window.out_of_orderness_ms
                is_late = last_ms <= result.clock_ms.get(partition, 0) - behind_ms
            else:
                is_late = position in late
            count = counts.setdefault((event.user_id, end_ms), [0, 0])
            if not is_late:
                count[0] += 1
                count[1] += len(value.decode("utf-8"))
            detail = _exceeded(*count, settings.limits)
            if is_late:
                result.late.add(position)
            elif detail if too_many is None else position in too_many:
                result.rejected[position] = Rejected("TOO_MANY", detail)
            elif end_ms - settings.window.length_ms < erased.get(event.user_id, 0):
                result.rejected[position] = Rejected("ERASED", "window")
            else:
                result.used.add(position)
                used.append(event)
        if time_ms is not None:
            clock_ms = min(time_ms, timestamp_ms)
            result.clock_ms[partition] = max(clock_ms, result.clock_ms.get(partition, 0))
    if result.clock_ms:
        result.watermark_ms = min(result.clock_ms.values()) - settings.window.out_of_orderness_ms
    return used


def _exceeded(events: int, chars: int, limits: Any) -> str:
    """Which limit of a window is exceeded; "" if none is."""
    if events > limits.max_window_events:
        return "events"
    return "characters" if chars > limits.max_window_chars else ""


def window_end_ms(user_id: str, time_ms: int, window: Any) -> int:
    """Returns the end of the user's window that contains `time_ms`."""
    shift_ms = 0
    if window.stagger_ms:
        number = int.from_bytes(hashlib.md5(user_id.encode("utf-8")).digest()[:2], "big") // 16
        shift_ms = number % (window.length_ms // window.stagger_ms) * window.stagger_ms
    return ((time_ms - shift_ms) // window.length_ms + 1) * window.length_ms + shift_ms
