"""TIFU-KNN, UP-CF and item neighbours against sums written out by hand."""

import numpy as np
import pytest

from lab.baselines.basket_history import History
from lab.baselines.item_knn import ItemKnn, cosines
from lab.baselines.neighbours import Neighbours, TifuKnn, UpCf
from models.profile.data.examples import PURCHASE
from models.profile.evaluation.next_basket import Baskets
from tests.unit.models.profile.synthetic_streams import DAY_MS, START_MS, make_streams

# Users 0 and 1 share items 1 and 2; user 1 also has item 3. User 2 has nothing in common with them.
PASTS = {0: [[1, 2], [1], [2]], 1: [[1, 2], [1, 3], [3]], 2: [[4], [4, 5], [5]]}


@pytest.fixture(scope="module")
def baskets():
    events = [
        (user, day, item)
        for user, days in PASTS.items()
        for day, items in enumerate(days)
        for item in items
    ]
    user, day, item = np.array(events).T
    time_ms = START_MS + day * DAY_MS
    ones = np.ones(len(user))
    return Baskets.from_streams(
        make_streams(user, time_ms, np.full(len(user), PURCHASE), ones, item), "item"
    )


@pytest.fixture(scope="module")
def history(baskets):
    """A row for each user, after the user's last window."""
    return History.before(baskets, np.array([2, 5, 8]), baskets.popularity(np.arange(9)))


@pytest.fixture(scope="module")
def neighbours(history):
    return Neighbours(history, np.arange(3))


def test_tifu_vector_is_a_mean_of_groups_of_decayed_windows(history):
    vector = TifuKnn(group_windows=2, within_decay=0.5, group_decay=0.1).vectors(history).toarray()
    # The newest group holds two windows, the oldest the remaining one.
    newest_1, newest_2 = (0.5 * 1 + 1 * 0) / 2, (0.5 * 0 + 1 * 1) / 2
    np.testing.assert_allclose(vector[0, 1], (newest_1 + 0.1 * 1) / 2)
    np.testing.assert_allclose(vector[0, 2], (newest_2 + 0.1 * 1) / 2)


def test_nearest_user_adds_its_codes_and_the_user_itself_is_no_neighbour(history, neighbours):
    model = TifuKnn(group_windows=3, neighbours=1, own_share=0.5)
    ranking = model.rank(history, np.arange(3), neighbours)
    assert sorted(ranking[0, :3]) == [1, 2, 3]
    # With all weight on neighbours, only the neighbour's codes have a score.
    ranking = model._replace(own_share=0.0).rank(history, np.arange(3), neighbours)
    assert sorted(ranking[0, :3]) == [1, 2, 3]
    assert ranking[0, 0] in (1, 3)


def test_up_cf_weighs_users_by_what_they_share(history, neighbours):
    vector = UpCf(recent_windows=2).vectors(history).toarray()
    np.testing.assert_allclose(vector[1, 1:4], [0.5, 0, 1])
    ranking = UpCf(recent_windows=3, locality=1).rank(history, np.arange(3), neighbours)
    assert sorted(ranking[0, :3]) == [1, 2, 3]
    assert sorted(ranking[2, :2]) == [4, 5]


def test_item_neighbours_are_cosines_of_windows(baskets, history):
    cosine = cosines(baskets, np.arange(9)).toarray()
    np.testing.assert_allclose(cosine[1, 2], 2 / np.sqrt(4 * 3))
    np.testing.assert_allclose(cosine[1, 3], 1 / np.sqrt(4 * 2))
    assert cosine[1, 1] == cosine[1, 4] == 0
    without_itself = ItemKnn(neighbours=1, half_life_days=1e9, self_weight=0.0)
    ranking = without_itself.rank(history, cosines(baskets, np.arange(9)))
    assert ranking[0, 0] == 1  # 2 has had item 2 twice, whose nearest is item 1


def test_windows_outside_the_reference_change_no_cosine(baskets):
    assert cosines(baskets, np.arange(3, 9)).toarray()[1, 2] == pytest.approx(1 / np.sqrt(2))
