"""Own counts, GP-TopFreq and popularity, on pasts that can be counted by hand."""

import numpy as np
import pytest

from lab.baselines.basket_history import History, gp_topfreq
from models.profile.data.examples import PURCHASE
from models.profile.evaluation.next_basket import NO_CODE, RETURN, Baskets
from tests.unit.models.profile.synthetic_streams import DAY_MS, START_MS, make_streams

# User 0: item 1 three times, item 2 later in two windows. User 1: item 3 in three windows.
EVENTS = [
    (0, 0, 1, PURCHASE),
    (0, 0, 1, PURCHASE),
    (0, 0, 1, PURCHASE),
    (0, 30, 2, PURCHASE),
    (0, 60, 2, PURCHASE),
    (0, 60, 4, RETURN),
    (0, 60, 0, PURCHASE),
    (0, 61, 5, PURCHASE),
    (1, 0, 3, PURCHASE),
    (1, 1, 3, PURCHASE),
    (1, 2, 3, PURCHASE),
]


@pytest.fixture(scope="module")
def baskets():
    user, day, item, kind = (np.array(column) for column in zip(*EVENTS, strict=True))
    streams = make_streams(user, START_MS + day * DAY_MS, kind, np.ones(len(user)), item)
    return Baskets.from_streams(streams, "item")


def history_at(baskets, *windows):
    popularity_C = baskets.popularity(np.arange(len(baskets.user_W)))
    return History.before(baskets, np.array(windows), popularity_C)


def test_past_has_the_rows_own_window_and_none_after_it(baskets):
    history = history_at(baskets, 1, 2)
    assert history.row_P.tolist() == [0, 0, 1, 1]
    assert history.code_P.tolist() == [1, 2, 1, 2]
    assert history.sums(history.events_E).tolist() == [3, 1, 3, 2]
    assert history.age_days_E.tolist() == [30, 0, 60, 30, 0]
    assert history.windows_ago_E.tolist() == [1, 0, 2, 1, 0]


def test_popular_codes_follow_the_users_own_and_each_code_occurs_once(baskets):
    ranking = gp_topfreq(history_at(baskets, 2))[0].tolist()
    assert ranking[:3] == [2, 1, 3]
    assert sorted(ranking[:4]) == [1, 2, 3, 5]
    assert ranking[4:] == [NO_CODE] * 6
