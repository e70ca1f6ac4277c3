"""How far a window moves category shares, and which categories moved most."""

from __future__ import annotations

import math

import numpy as np
import pytest

from liveprofile.features.affinity import category_affinity
from liveprofile.units import DAY_MS
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import Token


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
