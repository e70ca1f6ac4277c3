"""The figures of a profile, each with its explanation (docs/data-contract.md, sections 4 and 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from console.formats import number, share


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
        "no purchase soon",
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
    "purchases": _Kind("purchases", _count, "All purchases that were counted, undecayed."),
    "amount": _Kind("spend", number, "Sum of the amounts of all purchases, undecayed."),
    "purchase_windows": _Kind(
        "windows with a purchase", _count, "Windows in which the user bought something."
    ),
    "purchases_decayed": _Kind(
        "recent purchases",
        number,
        "Purchases that fade with age: one of 30 days ago counts 0.37 (state.decay_days).",
    ),
    "amount_decayed": _Kind("recent spend", number, "Spend that fades with age in the same way."),
    "purchase_count_mean": _Kind(
        "usual number of purchases",
        number,
        "Mean over windows with a purchase; recent windows weigh more.",
    ),
    "purchase_count_std": _Kind(
        "deviation of the number",
        number,
        "Standard deviation of the purchases of such a window. Rules use it.",
    ),
    "purchase_amount_mean": _Kind(
        "usual spend", number, "Mean spend of a window with a purchase; recent windows weigh more."
    ),
    "purchase_amount_std": _Kind(
        "deviation of the spend", number, "Standard deviation of that spend. Rules use it."
    ),
    "windows": _Kind("windows", _count, "Windows in which the user did anything."),
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
