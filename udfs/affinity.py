"""Category affinity: which categories a user turns to, the recent ones more."""

from __future__ import annotations

import math
from collections.abc import Iterable

from udfs.baselines import DAY_MS
from udfs.events import Token

KEPT = 10
MOVED = 5


def weights(tokens: Iterable[Token], seen_at_ms: int, decay_days: float) -> dict[str, float]:
    """Category -> sum of exp(-(seen_at - event_time) / tau); events without a category count not."""
    tau = decay_days * DAY_MS
    total: dict[str, float] = {}
    for token in tokens:
        if token.category:
            weight = math.exp((token.time_ms - seen_at_ms) / tau)
            total[token.category] = total.get(token.category, 0.0) + weight
    return total


def shares(total: dict[str, float]) -> dict[str, float]:
    """All shares; they add up to 1 (or there are none)."""
    whole = sum(total.values())
    # Rounded, so that equal shares tie by name and not by the last bit of a sum.
    return {category: round(weight / whole, 9) for category, weight in total.items()}


def largest(share: dict[str, float], count: int = KEPT) -> dict[str, float]:
    """The largest shares, ties by name."""
    return dict(sorted(share.items(), key=lambda item: (-item[1], item[0]))[:count])


def moved(before: dict[str, float], after: dict[str, float]) -> list[tuple[str, float, float]]:
    """The categories whose share changed most: (category, before, after), ties by name."""
    changes = [
        (category, before.get(category, 0.0), after.get(category, 0.0))
        for category in before.keys() | after.keys()
    ]
    changes.sort(key=lambda change: (-round(abs(change[2] - change[1]), 9), change[0]))
    return changes[:MOVED]
