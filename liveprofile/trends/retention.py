"""Retention: which users of a first week come back in the weeks after it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from liveprofile.trends.user_windows import UserWindow
from liveprofile.units import DAY_MS

WEEK_MS = 7 * DAY_MS
_FIRST_MONDAY_MS = 4 * DAY_MS  # 1970-01-05


class Cohort(NamedTuple):
    """The users whose first window ever starts in a week."""

    week_ms: int  # Monday, 00:00 UTC
    users: int
    # Users that are active in the week itself, the next one, and so on; complete weeks only.
    active: list[int]


def week_start_ms(time_ms: int) -> int:
    """Monday, 00:00 UTC."""
    return (time_ms - _FIRST_MONDAY_MS) // WEEK_MS * WEEK_MS + _FIRST_MONDAY_MS


def retention(
    users: Iterable[tuple[str, list[UserWindow]]], event_type: str | None, complete_until_ms: int
) -> list[Cohort]:
    """Returns the cohorts, oldest first.

    event_type: a user is active in a week with such an event; None: with any event. A week counts
    that ends by complete_until_ms. Users whose first window is not stored any more are in none.
    """
    sizes: Counter[int] = Counter()
    active: dict[int, Counter[int]] = defaultdict(Counter)
    for _, windows in users:
        first = next((window for window in windows if window.is_first), None)
        if first is None:
            continue
        week_ms = week_start_ms(first.start_ms)
        sizes[week_ms] += 1
        weeks = {
            (week_start_ms(window.start_ms) - week_ms) // WEEK_MS
            for window in windows
            if event_type is None or window.counts.get(event_type)
        }
        active[week_ms].update(weeks)
    last_ms = week_start_ms(complete_until_ms)  # the week that is not complete
    return [
        Cohort(
            week_ms,
            sizes[week_ms],
            [active[week_ms][week] for week in range((last_ms - week_ms) // WEEK_MS)],
        )
        for week_ms in sorted(sizes)
        if week_ms < last_ms
    ]
