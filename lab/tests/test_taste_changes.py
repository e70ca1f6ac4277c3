"""The divergence finds planted changes of taste more often than the difference of shares."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from liveprofile.wire.tokens import Token
from tests.unit.liveprofile.features.test_features import affinity, tokens

HISTORY_WINDOWS, WINDOWS, EVENTS, USERS = 8, 20, 10, 60
TASTES = [f"c{number:02}" for number in range(60)]


class Change(NamedTuple):
    """The category that moved most in a user's history, and the number of its window."""

    category: str
    window: int


def test_planted_changes_of_taste_are_found_more_often_than_by_differences_of_shares() -> None:
    random = np.random.default_rng(7)
    hits = {"divergence": 0, "difference": 0}
    for _ in range(USERS):
        truth, windows = _user(random)
        best: dict[str, tuple[float, Change]] = {}
        for number in range(HISTORY_WINDOWS, WINDOWS):
            first = number - HISTORY_WINDOWS
            history = [token for day in range(first, number) for token in windows[day]]
            found = affinity(history, windows[number], number)
            shares_before = affinity(history, [], number).shares[0]
            rises = {
                "divergence": {
                    name: _part(before, after)
                    for name, before, after in found.shifts[0]
                    if after > before
                },
                "difference": {
                    name: after - shares_before.get(name, 0.0)
                    for name, after in found.shares[0].items()
                },
            }
            for measure, sizes in rises.items():
                for name, size in sizes.items():
                    if size > best.get(measure, (0.0,))[0]:
                        best[measure] = size, Change(name, number)
        for measure, (_, change) in best.items():
            found_it = change.category == truth.category and abs(change.window - truth.window) <= 2
            hits[measure] += found_it
    assert hits["divergence"] > 1.5 * hits["difference"], hits
    assert hits["divergence"] > 0.6 * USERS, hits


def _user(random: np.random.Generator) -> tuple[Change, list[list[Token]]]:
    """Eight tastes, one of which changes; a tenth of the events are from any category."""
    *tastes, new = random.choice(TASTES, 9, replace=False).tolist()
    weights, change = random.dirichlet(np.full(8, 1.5)), int(random.integers(11, 18))
    windows = []
    for number in range(WINDOWS):
        if number == change:
            place = int(random.integers(8))
            tastes[place], weights[place] = new, 0.3
            weights /= weights.sum()
        chosen = random.choice(tastes, EVENTS, p=weights)
        noise = random.random(EVENTS) < 0.1
        windows.append(
            tokens(number, np.where(noise, random.choice(TASTES, EVENTS), chosen).tolist())
        )
    return Change(new, change), windows


def _part(before: float, after: float) -> float:
    middle = (before + after) / 2
    return sum(share * math.log(share / middle) / 2 for share in (before, after) if share > 0)
