"""The choice whether the trees read the order of a user's last events."""

from __future__ import annotations

import numpy as np

from liveprofile.features.entity import EVENT_FEATURES, ORDER_FEATURES
from models.fraud.datasets.labelled_features import LabelledFeatures
from models.fraud.training.order_choice import choose_order, first_columns, with_order_columns
from models.fraud.training.train_handbook import FEATURES as HANDBOOK_FEATURES
from models.fraud.training.train_simulated import FEATURES

NAMES = ["amount", "user_events_1d"]
SETTING = {"max_depth": 2, "rounds": 20, "eta": 0.3}
USERS = np.arange(1_500) % 300


def split(decisive: int, seed: int) -> LabelledFeatures:
    """Events whose label is the sign of one column."""
    shape = (len(USERS), len(NAMES) + len(ORDER_FEATURES))
    x_NF = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return LabelledFeatures(x_NF, x_NF[:, decisive] > 1)


def test_order_is_chosen_if_it_shows_the_frauds() -> None:
    decisive = len(NAMES) + ORDER_FEATURES.index("user_gap_3_before")
    choice = choose_order(split(decisive, 0), 1.0, split(decisive, 1), NAMES, SETTING, USERS)
    assert choice.names == [*NAMES, *ORDER_FEATURES]
    assert choice.report["chosen"] is True
    assert choice.report["gain_95"][0] > 0.5


def test_order_is_not_chosen_if_other_features_show_the_frauds() -> None:
    choice = choose_order(split(0, 0), 1.0, split(0, 1), NAMES, SETTING, USERS)
    assert choice.names == NAMES
    assert choice.report["chosen"] is False
    assert set(choice.report["average_precision"]) == {"without", "with"}


def test_user_numbers_of_several_shops_are_grouped() -> None:
    """Numbers of the second shop are above 2**32 (models.fraud.datasets.event_dataset)."""
    decisive = len(NAMES)
    users = np.where(np.arange(len(USERS)) < 700, USERS, USERS + (1 << 32))
    choice = choose_order(split(decisive, 0), 1.0, split(decisive, 1), NAMES, SETTING, users)
    assert choice.report["chosen"] is True


def test_order_columns_are_the_last_ones() -> None:
    all_columns = split(0, 0)
    chosen = LabelledFeatures(all_columns.x_NF[:, :1], all_columns.fraud_N)
    found = with_order_columns(chosen, all_columns)
    assert found.x_NF.shape[1] == 1 + len(ORDER_FEATURES)
    np.testing.assert_array_equal(found.x_NF[:, 1:], all_columns.x_NF[:, len(NAMES) :])
    np.testing.assert_array_equal(first_columns(found, 1).x_NF, chosen.x_NF)


def test_order_features_are_features_that_no_model_reads_unless_chosen() -> None:
    assert set(ORDER_FEATURES) < set(EVENT_FEATURES)
    assert not set(ORDER_FEATURES) & {*FEATURES, *HANDBOOK_FEATURES}
    older = ("user_seconds_since_event", "user_seconds_since_purchase", "user_seconds_since_login")
    assert all(name in FEATURES and name in HANDBOOK_FEATURES for name in older)
