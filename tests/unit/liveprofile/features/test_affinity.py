"""How far a window moves category shares, and which categories moved most."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest

from liveprofile.features.affinity import category_affinity
from liveprofile.units import DAY_MS
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import Token

HISTORY_WINDOWS, WINDOWS, EVENTS, USERS = 8, 20, 10, 60
TASTES = [f"c{number:02}" for number in range(60)]


class Change(NamedTuple):
    """The category that moved most in a user's history, and the number of its window."""

    category: str
    window: int


def tokens(day: int, categories: list[str]) -> list[Token]:
    return [Token(day * DAY_MS + DAY_MS // 2, 0, "", category, 0.0) for category in categories]


def affinity(history: list[Token], window: list[Token], day: int = 9):
    """Of one row, whose window is the day."""
    columns = (TokenColumns.of([history]), TokenColumns.of([window]))
    start_ms, end_ms = np.array([day * DAY_MS]), np.array([(day + 1) * DAY_MS])
    return category_affinity(*columns, start_ms, end_ms, 30.0)


def test_divergence_of_equal_shares_is_0_and_of_disjoint_ones_log_2() -> None:
    same = affinity(tokens(3, ["a", "b"]), tokens(9, ["a", "b"]))
    assert same.divergence == [0.0]
    # The history fades, so that all that is left of it is below the rounding.
    other = affinity(tokens(3, ["a"]), tokens(999, ["b"]), day=999)
    assert other.divergence == [pytest.approx(math.log(2), abs=1e-6)]


@pytest.mark.parametrize(("history", "window"), [([], ["a"]), ([""], ["a"]), ([], [])])
def test_no_category_before_or_after_gives_no_divergence(
    history: list[str], window: list[str]
) -> None:
    assert affinity(tokens(3, history), tokens(9, window)).divergence == [None]


def test_new_category_comes_before_a_larger_change_of_a_large_share() -> None:
    found = affinity(tokens(8, ["a"] * 6 + ["b"] * 4), tokens(9, ["a"] * 5 + ["n"]))
    (_, before, after), *_ = sorted(found.shifts[0], key=lambda shift: shift[0] != "b")
    new_share = next(after for name, _, after in found.shifts[0] if name == "n")
    assert before - after > new_share
    assert found.shifts[0][0][0] == "n"


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
