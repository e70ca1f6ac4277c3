"""One sentence that says who a user is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from console.formats import listed, number, share, words

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
    return f"{subject}: {'; '.join(parts)}." if parts else f"{subject} of whom little is known."


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
