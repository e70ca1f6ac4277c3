"""An explainer of the read API in memory (serve.explainer.Explainer)."""

from __future__ import annotations

import asyncio
from typing import Any

EVENTS: tuple[tuple[Any, ...], ...] = (
    # event_id, type, item, category, amount, churn, expected_spend, interests, moved_interests
    ("e1", "view", "<i>9</i>", "tea", 0.0, 0.002, 0.0, 0.01, [["tea", 0.1, 0.12]]),
    ("e2", "purchase", "espresso", "coffee", 12.5, -0.04, 3.5, 0.2, [["coffee", 0.2, 0.5]]),
    ("e3", "login", "", "", 0.0, 0.0, 0.0, 0.0, []),
    ("e4", "search", "", "", 0.0, 0.0, -0.25, 0.0, []),
)
NAMES = (
    *("event_id", "event_type", "item", "category", "amount", "churn", "expected_spend"),
    *("interests", "moved_interests"),
)


def explanation(user_id: str = "42", end_ms: int = 3_600_000, **changed: Any) -> dict[str, Any]:
    """A valid answer; `changed`: other values."""
    effects = [
        dict(zip(NAMES, event, strict=True)) | {"time_ms": end_ms - 1_000 + number}
        for number, event in enumerate(EVENTS)
    ]
    return {
        "user_id": user_id,
        "window_start_ms": end_ms - 3_600_000,
        "window_end_ms": end_ms,
        "model_version": "m2",
        "events": len(effects),
        "before": {"churn": 0.28, "expected_spend": 55.0},
        "stored": {"churn": 0.23, "expected_spend": 60.0, "interests": {"coffee": 0.5}},
        "effects": effects,
    } | changed


class MemoryExplainer:
    """Answers with `explanation`. fail: raised if set. delay_s: how long it takes."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int | None]] = []
        self.fail: Exception | None = None
        self.delay_s = 0.0
        self.cancelled = 0
        self.changed: dict[str, Any] = {}

    async def explain(self, user_id: str, until_ms: int | None) -> dict[str, Any]:
        self.asked.append((user_id, until_ms))
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fail is not None:
            raise self.fail
        return explanation(user_id, until_ms or 3_600_000, **self.changed)
