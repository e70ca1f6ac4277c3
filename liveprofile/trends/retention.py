"""Retention: how many users of a first week return in the weeks after."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from liveprofile.storage.queries import WindowChange
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
    changes: Iterable[WindowChange], event_type: str | None, complete_until_ms: int
) -> list[Cohort]:
    """Returns the cohorts, oldest first.

    changes: those of a user follow each other (`queries.scan_changes`). event_type: a user is
    active in a week with such an event; None: with any event. A week counts that ends by
    complete_until_ms. Users whose first window is not stored any more are in none.
    """
    sizes: Counter[int] = Counter()
    active: dict[int, Counter[int]] = defaultdict(Counter)
    for _, of_user in itertools.groupby(changes, key=lambda change: change.user_id):
        first_ms, weeks = None, set[int]()
        for change in of_user:
            if first_ms is None and (change.delta.get("before") or {}).get("windows") == 0:
                first_ms = change.window_start_ms
            counts = (change.delta.get("window") or {}).get("counts") or {}
            if event_type is None or counts.get(event_type):
                weeks.add(week_start_ms(change.window_start_ms))
        if first_ms is None:
            continue
        week_ms = week_start_ms(first_ms)
        sizes[week_ms] += 1
        active[week_ms].update((each - week_ms) // WEEK_MS for each in weeks)
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
