"""What happened to a user: windows with their changes, and flags, newest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from console.charts import LineChart, Sample, line_chart
from console.formats import number, share, utc, words
from liveprofile.storage.queries import StoredFlag
from serve.store.statements import RawDelta

CORRECTIONS = {
    "ADDED": "added by a correction for late events: no alert was sent",
    "WITHDRAWN": "withdrawn by a correction for late events",
}


class Entry(NamedTuple):
    """A window or a flag. `level`: severity of a flag, "" for a window."""

    time_ms: int
    title: str
    lines: list[str]
    level: str
    flag_id: str = ""


class Timeline(NamedTuple):
    entries: list[Entry]
    chart: LineChart | None  # probability of no purchase after each window; flags are marks
    first_window_ms: int | None
    window_ends_ms: list[int]  # oldest first


def timeline(deltas: Sequence[RawDelta], flags: Sequence[StoredFlag]) -> Timeline:
    """deltas and flags: newest first."""
    windows = [(delta, orjson.loads(delta.delta)) for delta in deltas]
    entries = [_window_entry(delta, values) for delta, values in windows]
    entries += [_flag_entry(flag) for flag in flags]
    entries.sort(key=lambda entry: -entry.time_ms)
    return Timeline(
        entries,
        line_chart(_samples(windows, flags), y_max=1.0),
        deltas[-1].window_start_ms if deltas else None,
        [delta.window_end_ms for delta in reversed(deltas)],
    )


def _samples(
    windows: Sequence[tuple[RawDelta, Mapping[str, Any]]], flags: Sequence[StoredFlag]
) -> list[Sample]:
    samples = []
    for delta, values in windows:
        churn = (values.get("after") or {}).get("churn")
        if churn is None:
            continue
        raised = [
            flag.rule_id
            for flag in flags
            if delta.window_start_ms < flag.window_end_ms <= delta.window_end_ms
        ]
        title = f"{utc(delta.window_end_ms)}: {share(churn)}"
        samples.append(
            Sample(delta.window_end_ms, churn, title, mark=", ".join(sorted(set(raised))))
        )
    return samples


def _window_entry(delta: RawDelta, values: Mapping[str, Any]) -> Entry:
    window = values.get("window") or {}
    counts = window.get("counts") or {}
    what = ", ".join(f"{count} {words(name)}" for name, count in counts.items())
    title = what or f"{delta.events} events"
    if delta.amount:
        title += f", {number(delta.amount)} spent"
    lines = [
        f"surprise {number(delta.surprise)} nats,"
        f" embedding moved {number(delta.embedding_distance, 3)}"
    ]
    if moved := values.get("moved_categories"):
        lines.append(
            "interests: "
            + ", ".join(f"{name} {share(old)} → {share(new)}" for name, old, new in moved)
        )
    before, after = values.get("before") or {}, values.get("after") or {}
    if before.get("churn") is not None and after.get("churn") is not None:
        lines.append(
            f"probability of no purchase: {share(before['churn'])} → {share(after['churn'])}"
        )
    if delta.active_rules:
        lines.append("active rules: " + ", ".join(sorted(delta.active_rules)))
    return Entry(delta.window_end_ms, title, lines, "")


def _flag_entry(flag: StoredFlag) -> Entry:
    lines = [flag.message, f"recommended: {words(flag.action)}"]
    if flag.rule_state != "ACTIVE":
        lines.append(f"the rule was in {flag.rule_state}: no alert was sent")
    if flag.correction in CORRECTIONS:
        lines.append(CORRECTIONS[flag.correction])
    return Entry(flag.window_end_ms, f"flag {flag.rule_id}", lines, flag.severity, flag.flag_id)
