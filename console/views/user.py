"""The page of a user, computed from stored rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from console.charts import DAYS, HOURS, HeatMap, RadarChart, heat_map, radar
from console.formats import listed, number, share, words
from console.views.timeline import Timeline, timeline
from liveprofile.storage.queries import SimilarUser, StoredFlag, names_of
from liveprofile.units import HOUR_MS
from liveprofile.value_curves import KEY, STORED_COLUMNS, values_at
from serve.store.statements import RawDelta, RawProfile, StoredUserSegment

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NAMED_CATEGORIES = 3


def who(segments: Sequence[str], features: Mapping[str, Any], profile: Mapping[str, Any]) -> str:
    """The sentence; parts that are not known are left out.

    features: as in a profile or in a delta. profile: the other values, {} for the past.
    """
    kind = listed([words(name) for name in segments])
    subject = f"A {kind} customer" if kind else "A customer"
    parts = [
        *_purchases(features),
        *_recency(features),
        *_interests(profile.get("category_affinity") or {}),
        *_times(profile),
        *_outlook(features),
    ]
    return f"{subject}: {'; '.join(parts)}." if parts else f"{subject}. Nothing else is known yet."


def _purchases(features: Mapping[str, Any]) -> list[str]:
    purchases, events = features.get("purchases"), features.get("events")
    if not events:
        return []
    if not purchases:
        return [f"no purchase in {number(events, 0)} events"]
    mean = features.get("purchase_amount_mean")
    usual = f", usually {number(mean)} in a window with a purchase" if mean else ""
    return [f"{number(purchases, 0)} purchases for {number(features.get('amount'))}{usual}"]


def _recency(features: Mapping[str, Any]) -> list[str]:
    days = features.get("recency_days")
    return [] if days is None else [f"the last {number(days, 1)} days ago"]


def _interests(affinity: Mapping[str, float]) -> list[str]:
    top = sorted(affinity.items(), key=lambda entry: -entry[1])[:NAMED_CATEGORIES]
    named = [f"{name} ({share(value)})" for name, value in top if value > 0]
    return [f"mostly {listed(named)}"] if named else []


def _times(profile: Mapping[str, Any]) -> list[str]:
    hours, days = profile.get("activity_hour") or [], profile.get("activity_weekday") or []
    if len(hours) != 24 or not any(hours) or not any(days):
        return []
    day = WEEKDAYS[_peak(days)]
    # Activity around midnight is one peak.
    spans = [hours[hour - 1] + hours[hour] + hours[(hour + 1) % 24] for hour in range(24)]
    return [f"most active on {day}s and around {_peak(spans):02d}:30 UTC"]


def _peak(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _outlook(features: Mapping[str, Any]) -> list[str]:
    churn, spend = features.get("churn"), features.get("expected_spend")
    if churn is None:
        return []
    expected = "" if spend is None else f", expected spend {number(spend)}"
    return [f"{share(churn)} probability of no purchase within the model's horizon{expected}"]


class Figure(NamedTuple):
    """A figure as a page shows it. `before`: its text before the last window, "" if the same."""

    label: str
    value: str
    before: str
    explanation: str


class _Kind(NamedTuple):
    label: str
    written: Callable[[float | None], str]
    explanation: str


def _count(value: float | None) -> str:
    return number(value, 0)


KINDS: Mapping[str, _Kind] = {
    "churn": _Kind(
        "probability of no purchase",
        share,
        "The model's probability of no purchase within its horizon, which its card names.",
    ),
    "expected_spend": _Kind(
        "expected spend", number, "The model's median of the spend within the same horizon."
    ),
    "recency_days": _Kind(
        "days since the last purchase",
        number,
        "From the last purchase to the end of the last window. Unknown without a purchase.",
    ),
    "purchases": _Kind("purchases", _count, "All purchases, without decay."),
    "amount": _Kind("spend", number, "Total amount of all purchases, without decay."),
    "purchase_windows": _Kind(
        "windows with a purchase", _count, "Windows in which the user bought something."
    ),
    "purchases_decayed": _Kind(
        "recent purchases",
        number,
        "Purchases with decay: one from 30 days ago counts 0.37 (state.decay_days).",
    ),
    "amount_decayed": _Kind("recent spend", number, "Spend with the same decay."),
    "purchase_count_mean": _Kind(
        "usual number of purchases",
        number,
        "Mean over windows with a purchase; recent windows weigh more.",
    ),
    "purchase_count_std": _Kind(
        "standard deviation of the number",
        number,
        "Standard deviation of the purchases of such a window. Rules use it.",
    ),
    "purchase_amount_mean": _Kind(
        "usual spend", number, "Mean spend of a window with a purchase; recent windows weigh more."
    ),
    "purchase_amount_std": _Kind(
        "standard deviation of the spend", number, "Standard deviation of that spend. Rules use it."
    ),
    "windows": _Kind("windows", _count, "Windows with at least one event."),
    "events": _Kind("events", _count, "Events of all types in these windows."),
}


def figures(features: Mapping[str, Any], before: Mapping[str, Any]) -> list[Figure]:
    """The figures in the order of KINDS. before: the features before the last window, or {}."""
    found = []
    for name, kind in KINDS.items():
        if name not in features:
            continue
        value = kind.written(features[name])
        earlier = kind.written(before[name]) if name in before else value
        found.append(
            Figure(kind.label, value, "" if earlier == value else earlier, kind.explanation)
        )
    return found


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


class Activity(NamedTuple):
    chart: HeatMap | None
    source: str  # what the chart is made of


def activity(deltas: Sequence[RawDelta], profile: Mapping[str, Any]) -> Activity:
    """From the windows if none is longer than an hour, else from the profile's hours and weekdays.

    profile: the values of a profile; {} for the past.
    """
    if deltas and all(each.window_end_ms - each.window_start_ms <= HOUR_MS for each in deltas):
        return Activity(heat_map(_of_windows(deltas)), f"events of {len(deltas)} stored windows")
    hours, days = profile.get("activity_hour") or [], profile.get("activity_weekday") or []
    if len(hours) == HOURS and len(days) == DAYS:
        shares = [[day * hour for hour in hours] for day in days]
        return Activity(
            heat_map(shares), "the profile's hours and weekdays, assumed to be independent"
        )
    return Activity(None, "")


def _of_windows(deltas: Sequence[RawDelta]) -> list[list[float]]:
    counts = [[0.0] * HOURS for _ in range(DAYS)]
    for delta in deltas:
        start = datetime.fromtimestamp(delta.window_start_ms / 1_000, UTC)
        counts[start.weekday()][start.hour] += delta.events
    total = sum(map(sum, counts)) or 1.0
    return [[count / total for count in row] for row in counts]


class UserRows(NamedTuple):
    """What is stored about a user. deltas and flags: newest first, of windows before `at_ms`.

    at_ms: None for now, which is now_ms. all_window_ends_ms: of all stored windows, oldest first.
    """

    profile: RawProfile
    deltas: Sequence[RawDelta]
    flags: Sequence[StoredFlag]
    similar: Sequence[SimilarUser]
    segments: Sequence[StoredUserSegment]
    groups: Sequence[Group]
    at_ms: int | None
    now_ms: int
    all_window_ends_ms: Sequence[int]


class UserPage(NamedTuple):
    user_id: str
    sentence: str
    as_of_ms: int | None  # end of the window that the page shows; None: none is stored
    model_version: str
    segments: list[str]  # now
    left: list[str]  # segments that the user has been in
    figures: list[Figure]
    interests: InterestChart
    activity: Activity
    timeline: Timeline
    next_items: list[str]
    similar: Sequence[SimilarUser]
    is_past: bool
    window_ends_ms: list[int]
    position: int  # of the window in window_ends_ms


def user_page(rows: UserRows) -> UserPage:
    """Of the past a profile keeps its figures only: interests, segments and items are of now."""
    row, is_past = rows.profile, rows.at_ms is not None
    stored = orjson.loads(row.profile)
    latest = orjson.loads(rows.deltas[0].delta) if rows.deltas else {}
    features = (latest.get("after") or {}) if is_past else (stored.get("features") or {})
    before = latest.get("before") or {}
    segments = names_of(row.segments)
    shown = rows.deltas[0] if is_past and rows.deltas else row
    as_of_ms = None if is_past and not rows.deltas else shown.window_end_ms
    ends_ms = list(rows.all_window_ends_ms)
    document = latest if is_past else stored
    if document.get(KEY) and as_of_ms is not None:
        time_ms = rows.now_ms if rows.at_ms is None else rows.at_ms
        values = values_at(document, features, as_of_ms, time_ms)
        features = features | {name: values[name] for name in STORED_COLUMNS}
        # The values before the window are those at its end: a later one cannot be compared.
        before = {name: value for name, value in before.items() if name not in STORED_COLUMNS}
    known: dict[str, Any] = {} if is_past else stored
    return UserPage(
        user_id=row.user_id,
        sentence=who([] if is_past else segments, features, known),
        as_of_ms=as_of_ms,
        model_version=rows.deltas[0].model_version
        if is_past and rows.deltas
        else row.model_version,
        segments=segments,
        left=[each.segment for each in rows.segments if not each.member],
        figures=figures(features, before),
        interests=interests(stored.get("category_affinity") or {}, rows.groups),
        activity=activity(rows.deltas, known),
        timeline=timeline(rows.deltas, rows.flags),
        next_items=list(stored.get("next_items") or []),
        similar=rows.similar,
        is_past=is_past,
        window_ends_ms=ends_ms,
        position=ends_ms.index(as_of_ms) if as_of_ms in ends_ms else len(ends_ms) - 1,
    )
