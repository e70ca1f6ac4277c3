"""One sentence that says what a window changed in a profile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NAMED_CATEGORIES = 3
SMALLEST_CHANGE = 0.005  # of a share or a probability; smaller ones are left out
SMALLEST_RATIO = 0.01  # of an amount


def change_sentence(delta: Mapping[str, Any]) -> str:
    """For example `More tea (0.0% to 10.0%); churn fell from 30.0% to 17.0%.`

    delta: the JSON column of profile_delta. The categories are those with the largest parts in the
    divergence of the shares after the window from those before.
    """
    parts = [*_categories(delta), *_churn(delta), *_spend(delta)]
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else "Little has changed."


def _categories(delta: Mapping[str, Any]) -> Iterator[str]:
    moved = (delta.get("moved_categories") or [])[:NAMED_CATEGORIES]
    for word, rises in (("more", True), ("less", False)):
        named = [
            f"{name} ({before:.1%} to {after:.1%})"
            for name, before, after in moved
            if (after > before) == rises and abs(after - before) >= SMALLEST_CHANGE
        ]
        if named:
            yield f"{word} {', '.join(named)}"


def _churn(delta: Mapping[str, Any]) -> Iterator[str]:
    before, after = _both(delta, "churn")
    if before is not None and after is not None and abs(after - before) >= SMALLEST_CHANGE:
        yield f"churn {_direction(before, after)} from {before:.1%} to {after:.1%}"


def _spend(delta: Mapping[str, Any]) -> Iterator[str]:
    before, after = _both(delta, "expected_spend")
    if before is None or after is None:
        return
    if abs(after - before) >= SMALLEST_RATIO * max(before, after, 1.0):
        yield f"expected spend {_direction(before, after)} from {before:.2f} to {after:.2f}"


def _both(delta: Mapping[str, Any], feature: str) -> tuple[float | None, float | None]:
    return tuple((delta.get(side) or {}).get(feature) for side in ("before", "after"))


def _direction(before: float, after: float) -> str:
    return "rose" if after > before else "fell"
