"""Funnels: how many users go from one type of event to the next within a time."""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from liveprofile.proportions import wilson_interval
from liveprofile.trends.user_windows import UserWindow

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
