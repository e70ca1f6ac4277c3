"""The page of a user, computed from stored rows: who it is, figures, charts and a timeline."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from console.charts import (
    DAYS,
    HOURS,
    HeatMap,
    LineChart,
    RadarChart,
    Sample,
    heat_map,
    line_chart,
    radar,
)
from console.formats import listed, money, number, plural, share, utc, words
from liveprofile.storage.queries import StoredFlag, names_of
from liveprofile.value_curves import KEY, STORED_COLUMNS, values_at, values_moment_ms
from serve.store.statements import RawDelta, RawProfile

NAMED_CATEGORIES = 3


def who(segments: Sequence[str], features: Mapping[str, Any], profile: Mapping[str, Any]) -> str:
    """The sentence; parts that are not known are left out.

    features: as in a profile or in a delta. profile: the other values, {} for the past.
    """
    purchases, days = features.get("purchases"), features.get("recency_days")
    parts = []
    if purchases:
        parts.append(f"{number(purchases, 0)} purchases for {money(features.get('amount'))}")
    elif features.get("events"):
        parts.append(f"no purchase in {number(features['events'], 0)} events")
    if days is not None:
        parts.append(f"the last one {plural(days, 'day')} ago")
    shares = _largest(profile.get("category_affinity") or {})[:NAMED_CATEGORIES]
    if named := [f"{name} ({share(value)})" for name, value in shares if value > 0]:
        parts.append(f"mostly {listed(named)}")
    if features.get("churn") is not None:
        horizon = "probability of no purchase within the model's horizon"
        parts.append(f"{share(features['churn'])} {horizon}")
    kind = listed([words(name) for name in segments])
    subject = f"A {kind} customer" if kind else "A customer"
    return f"{subject}: {'; '.join(parts)}." if parts else f"{subject}. Nothing else is known yet."


def _count(value: float | None) -> str:
    return number(value, 0)


# Of each feature: label and format. docs/data-contract.md defines them.
FIGURES: Mapping[str, tuple[str, Callable[[float | None], str]]] = {
    "churn": ("probability of no purchase within the model's horizon", share),
    "expected_spend": ("expected spend within the same horizon (median)", number),
    "recency_days": ("days since the last purchase", number),
    "purchases": ("purchases", _count),
    "amount": ("spend", number),
    "purchase_windows": ("windows with a purchase", _count),
    "purchases_decayed": ("recent purchases (older ones weigh less)", number),
    "amount_decayed": ("recent spend (with the same decay)", number),
    "purchase_count_mean": ("purchases in a window with a purchase, mean", number),
    "purchase_count_std": ("the same, standard deviation", number),
    "purchase_amount_mean": ("spend of a window with a purchase, mean", number),
    "purchase_amount_std": ("the same, standard deviation", number),
    "windows": ("windows with an event", _count),
    "events": ("events", _count),
}


def figures(features: Mapping[str, Any], before: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Label, value, value before the last window ("" if the same).

    before: the features before the last window, or {}.
    """
    found = []
    for name, (label, written) in FIGURES.items():
        if name in features:
            value = written(features[name])
            earlier = written(before[name]) if name in before else value
            found.append((label, value, "" if earlier == value else earlier))
    return found


MAX_AXES = 8
MIN_AXES = 5


class InterestChart(NamedTuple):
    chart: RadarChart | None
    names: list[str]
    rows: list[tuple[str, list[float]]]  # category, shares in the order of names


def mean_affinity(rows: Sequence[RawProfile]) -> dict[str, float]:
    """The mean long-term category shares of those users who have any."""
    stored = (orjson.loads(row.profile).get("category_affinity") for row in rows)
    known = [shares for shares in stored if shares]
    total: Counter[str] = Counter()
    for shares in known:
        total.update(shares)
    return {name: value / len(known) for name, value in total.items()}


def interests(own: Mapping[str, float], groups: Mapping[str, Mapping[str, float]]) -> InterestChart:
    """The user's largest categories, filled up with the largest of the groups.

    groups: by name, users to compare with. Their shares are the ten largest of each, so others
    count as 0.
    """
    names = [name for name, value in _largest(own) if value > 0][:MAX_AXES]
    for shares in groups.values():
        for name, _ in _largest(shares):
            if len(names) >= MIN_AXES:
                break
            if name not in names:
                names.append(name)
    series = [("this user", "own", own)]
    series += [(name, f"group{n}", shares) for n, (name, shares) in enumerate(groups.items())]
    rows = [(name, [shares.get(name, 0.0) for _, _, shares in series]) for name in names]
    return InterestChart(radar(names, series), [name for name, _, _ in series], rows)


def _largest(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda entry: (-entry[1], entry[0]))


def activity(profile: Mapping[str, Any]) -> HeatMap | None:
    """A chart of the profile's hours and weekdays, as if they were independent."""
    hours, days = profile.get("activity_hour") or [], profile.get("activity_weekday") or []
    if len(hours) != HOURS or len(days) != DAYS:
        return None
    return heat_map([[day * hour for hour in hours] for day in days])


def user_page(
    row: RawProfile,
    deltas: Sequence[RawDelta],
    flags: Sequence[StoredFlag],
    at_ms: int | None,
    now_ms: int,
) -> dict[str, Any]:
    """What the page says of a profile, windows and flags.

    deltas and flags: newest first, of windows until `at_ms`; None for now. Of the past a profile
    keeps its figures only: interests, segments and items are of now.
    """
    is_past = at_ms is not None
    stored = orjson.loads(row.profile)
    latest = orjson.loads(deltas[0].delta) if deltas else {}
    document = latest if is_past else stored
    features = (latest.get("after") if is_past else stored.get("features")) or {}
    before = latest.get("before") or {}
    segments = names_of(row.segments)
    shown = deltas[0] if is_past and deltas else row
    as_of_ms = None if is_past and not deltas else shown.window_end_ms
    values_at_ms = None
    if document.get(KEY) and as_of_ms is not None:
        asked_ms = now_ms if at_ms is None else at_ms
        values_at_ms = values_moment_ms(document, as_of_ms, asked_ms)
        values = values_at(document, features, as_of_ms, asked_ms)
        features = features | {name: values[name] for name in STORED_COLUMNS}
        # The values before the window are those at its end: a later one cannot be compared.
        before = {name: value for name, value in before.items() if name not in STORED_COLUMNS}
    known: dict[str, Any] = {} if is_past else stored
    return {
        "user_id": row.user_id,
        "sentence": who([] if is_past else segments, features, known),
        "as_of_ms": as_of_ms,  # end of the window that the page shows; None: none is stored
        # of the probability of no purchase and the spend; None: as_of_ms
        "values_at_ms": values_at_ms,
        "model_version": shown.model_version,
        "segments": segments,
        "figures": figures(features, before),
        "activity": activity(known),
        "timeline": timeline(deltas, flags),
        "affinity": stored.get("category_affinity") or {},
        "next_items": list(stored.get("next_items") or []),
        "is_past": is_past,
    }


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


def timeline(
    deltas: Sequence[RawDelta], flags: Sequence[StoredFlag]
) -> tuple[list[Entry], LineChart | None]:
    """Entries, newest first, and the probability of no purchase after each window; flags are marks.

    deltas and flags: newest first.
    """
    windows = [(delta, orjson.loads(delta.delta)) for delta in deltas]
    entries = [_window_entry(delta, values) for delta, values in windows]
    entries += [_flag_entry(flag) for flag in flags]
    entries.sort(key=lambda entry: -entry.time_ms)
    return entries, line_chart(_samples(windows, flags), y_max=1.0)


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
            "probability of no purchase at the window's end:"
            f" {share(before['churn'])} → {share(after['churn'])}"
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
