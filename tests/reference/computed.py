"""Computed attributes in plain Python, from all events of a user (docs/data-contract.md)."""

import functools
import math
from collections.abc import Mapping, Sequence
from types import CodeType
from typing import Any

UNITS_MS = {"min": 60_000, "h": 3_600_000, "d": 86_400_000}


@functools.cache
def _compiled(text: str) -> CodeType:
    return compile(text, "definition", "eval")


def _types(event: Mapping[str, Any]) -> set[str]:
    return {event["event_type"], event.get("event_name", "")}


def value_at(
    definition: Mapping[str, Any], events: Sequence[Mapping[str, Any]], at_ms: int
) -> float | None:
    """The value after `events`, which are those of one user up to the last closed window.

    events: `time_ms`, event_name if it is not event_type, texts ("" if missing) and numbers (NaN
    if missing).
    """
    number, _, unit = definition.get("within", "").partition(" ")
    within_ms = int(number or 0) * UNITS_MS.get(unit, 0)
    tile_ms = math.ceil(within_ms / 20)
    found = []
    # One of the contract's types stands for all that count as it.
    resets_ms = [e["time_ms"] for e in events if definition.get("since_last") in _types(e)]
    for event in events:
        time_ms = event["time_ms"]
        if definition.get("of") and not _types(event) & {*definition["of"]}:
            continue
        if not eval(_compiled(definition.get("where") or "True"), {}, dict(event)):
            continue
        if time_ms <= max(resets_ms, default=0):
            continue
        if within_ms and time_ms - time_ms % tile_ms + tile_ms <= at_ms - within_ms:
            continue
        try:
            value = eval(_compiled(definition.get("value") or "1"), {}, dict(event))
        except ZeroDivisionError:
            continue
        if math.isfinite(value):
            found.append((time_ms, value))
    found.sort(key=lambda one: (one[0], repr(one[1])))  # of one time, by the value as a text
    values = [value for _, value in found]
    aggregate = definition["aggregate"]
    if aggregate in ("count", "sum"):
        return float(sum(values))
    if not found:
        return None
    if aggregate == "hours_since":
        return max(at_ms - found[-1][0], 0) / UNITS_MS["h"]
    if aggregate in ("first", "last"):
        return values[0 if aggregate == "first" else -1]
    return {"mean": math.fsum(values) / len(values), "min": min(values), "max": max(values)}[
        aggregate
    ]
