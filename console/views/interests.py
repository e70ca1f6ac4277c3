"""A user's interests beside those of everyone and of a segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import orjson

from console.charts.radar import RadarChart, radar
from serve.store.statements import RawProfile

MAX_AXES = 8
MIN_AXES = 5
MAX_LABEL_CHARS = 22


class ShareRow(NamedTuple):
    category: str
    shares: list[float]  # in the order of InterestChart.names


class InterestChart(NamedTuple):
    chart: RadarChart | None
    names: list[str]
    rows: list[ShareRow]


class Group(NamedTuple):
    """Users to compare with. Their shares are the ten largest of each, so others count as 0."""

    name: str
    shares: Mapping[str, float]


def affinity_of(row: RawProfile) -> dict[str, float]:
    """The long-term category shares of a profile."""
    return orjson.loads(row.profile).get("category_affinity") or {}


def mean_affinity(rows: Sequence[RawProfile]) -> dict[str, float]:
    """The mean shares of those users who have any."""
    known = [shares for shares in map(affinity_of, rows) if shares]
    total: dict[str, float] = {}
    for shares in known:
        for name, value in shares.items():
            total[name] = total.get(name, 0.0) + value
    return {name: value / len(known) for name, value in total.items()}


def interests(own: Mapping[str, float], groups: Sequence[Group]) -> InterestChart:
    """The user's largest categories, filled up with the largest of the groups."""
    names = [name for name, value in _largest(own) if value > 0][:MAX_AXES]
    for group in groups:
        for name, _ in _largest(group.shares):
            if len(names) >= MIN_AXES:
                break
            if name not in names:
                names.append(name)
    series = [("this user", "own", own)]
    series += [(group.name, f"group{n}", group.shares) for n, group in enumerate(groups)]
    rows = [ShareRow(name, [shares.get(name, 0.0) for _, _, shares in series]) for name in names]
    chart = radar(names, series)
    if chart is not None:
        axes = [axis._replace(label=_short(axis.label)) for axis in chart.axes]
        chart = chart._replace(axes=axes)
    return InterestChart(chart, [name for name, _, _ in series], rows)


def _largest(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda entry: (-entry[1], entry[0]))


def _short(label: str) -> str:
    return label if len(label) <= MAX_LABEL_CHARS else label[: MAX_LABEL_CHARS - 1] + "…"
