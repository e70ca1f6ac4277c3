"""Funnels and retention: how many users go on to the next event in time, and how many return."""

from __future__ import annotations

import bisect
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from liveprofile.proportions import wilson_interval
from liveprofile.storage.queries import WindowChange
from liveprofile.units import DAY_MS

STEPS = ("view", "cart", "purchase")


class FunnelStep(NamedTuple):
    """A step of a funnel, of one group of users."""

    event_type: str
    users: int
    # Of the users of the first step, with a 95 % interval (Wilson 1927); None without users.
    share: float | None
    share_low: float | None
    share_high: float | None


def steps_reached(
    windows: Sequence[UserWindow],
    steps: Sequence[str],
    within_ms: int,
    since_ms: int,
    until_ms: int,
) -> int:
    """Returns how many steps in a row the user takes, at most `within_ms` after the first.

    windows: of the user, oldest first. The first step is in a window that starts from since_ms on
    and before until_ms. Steps in one window count in any order: a delta does not tell their order.
    Of several starts, the one that gets furthest counts.
    """
    starts = [[w.start_ms for w in windows if w.counts.get(step)] for step in steps]
    furthest = 0
    for first_ms in starts[0]:
        if not since_ms <= first_ms < until_ms:
            continue
        reached, now_ms = 1, first_ms
        for of_step in starts[1:]:
            place = bisect.bisect_left(of_step, now_ms)
            if place == len(of_step) or of_step[place] > first_ms + within_ms:
                break
            reached, now_ms = reached + 1, of_step[place]
        furthest = max(furthest, reached)
        if furthest == len(steps):
            break
    return furthest


def funnel(
    users: Iterable[tuple[str, list[UserWindow]]],
    steps: Sequence[str],
    within_ms: int,
    since_ms: int,
    until_ms: int,
    groups_of: Callable[[str], Iterable[str]] | None = None,
) -> dict[str, list[FunnelStep]]:
    """Returns the funnel of each group; "all" is everyone.

    groups_of: the groups of a user, such as segments. None: the categories of each window; the
    steps of a category's funnel are in windows of this category.
    """
    reached: dict[str, Counter[int]] = defaultdict(Counter)
    for user_id, windows in users:
        count = steps_reached(windows, steps, within_ms, since_ms, until_ms)
        reached["all"][count] += 1
        if groups_of is not None:
            for group in groups_of(user_id):
                reached[group][count] += 1
            continue
        for category in {name for window in windows for name in window.categories}:
            own = [window for window in windows if category in window.categories]
            depth = steps_reached(own, steps, within_ms, since_ms, until_ms)
            reached[f"category {category}"][depth] += 1
    return {
        group: _steps(counts, steps)
        for group, counts in sorted(reached.items(), key=lambda item: _order(*item))
        if len(counts) > (0 in counts)  # somebody took the first step
    }


def _order(group: str, counts: Counter[int]) -> tuple[bool, int, str]:
    return group != "all", counts[0] - counts.total(), group


def _steps(counts: Counter[int], steps: Sequence[str]) -> list[FunnelStep]:
    users = [sum(n for depth, n in counts.items() if depth > step) for step in range(len(steps))]
    return [
        FunnelStep(step, count, *wilson_interval(count, users[0]))
        for step, count in zip(steps, users, strict=True)
    ]


class UserWindow(NamedTuple):
    """One window of a user."""

    start_ms: int
    counts: dict[str, int]  # by event type
    categories: tuple[str, ...]  # whose share of the user's interest did not fall
    is_first: bool  # the user's first window ever


def user_windows(changes: Iterable[WindowChange]) -> Iterator[tuple[str, list[UserWindow]]]:
    """Yields each user with its windows, oldest first.

    changes: those of a user follow each other (`queries.scan_changes`).
    """
    for user_id, of_user in itertools.groupby(changes, key=lambda change: change.user_id):
        windows = [_window(change.window_start_ms, change.delta) for change in of_user]
        yield user_id, sorted(windows, key=lambda window: window.start_ms)


def _window(start_ms: int, delta: dict[str, Any]) -> UserWindow:
    moved = delta.get("moved_categories") or ()
    return UserWindow(
        start_ms,
        (delta.get("window") or {}).get("counts") or {},
        tuple(name for name, before, after in moved if after >= before and after > 0),
        (delta.get("before") or {}).get("windows") == 0,
    )


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
