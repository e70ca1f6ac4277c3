"""The choice whether the trees read the order of a user's last events."""

from __future__ import annotations

import numpy as np

from liveprofile.features.entity import EVENT_FEATURES, ORDER_FEATURES
from models.fraud.datasets.event_dataset import LabelledFeatures
from models.fraud.training.order_choice import (
    OrderChoice,
    choose_order,
    tree_inputs,
)
from models.fraud.training.train_simulated import FEATURES
from models.fraud.transitions import COLUMNS

NAMES = ["amount", "user_seconds_since_event"]
SETTING = {"max_depth": 2, "rounds": 20, "eta": 0.3}
USERS = np.arange(1_500) % 300


def split(decisive: str, seed: int) -> LabelledFeatures:
    """Events whose label is the sign of one column. Types are 0 to 5, gaps above 0."""
    columns, random = [*NAMES, *ORDER_FEATURES], np.random.default_rng(seed)
    x_NF = random.lognormal(3, 2, (len(USERS), len(columns))).astype(np.float32)
    for column, name in enumerate(columns):
        if name.startswith("user_type"):
            x_NF[:, column] = random.integers(6, size=len(USERS))
    decisive_N = x_NF[:, columns.index(decisive)]
    return LabelledFeatures(x_NF, decisive_N > np.quantile(decisive_N, 0.8))


def choose(decisive: str, users: np.ndarray = USERS) -> OrderChoice:
    train, validation = split(decisive, 0), split(decisive, 1)
    return choose_order(train, users, 1.0, validation, users, NAMES, SETTING)


def test_order_is_chosen_if_it_shows_the_frauds() -> None:
    inputs, report = choose("user_gap_3_before")
    assert inputs.names == [*NAMES, *ORDER_FEATURES]
    assert inputs.tree_names == [*inputs.names, *COLUMNS]
    assert inputs.transitions is not None
    assert inputs.train.x_NF.shape == (len(USERS), len(inputs.tree_names))
    assert report["chosen"] is True
    assert report["gain_95"][0] > 0.5


def test_order_is_not_chosen_if_other_features_show_the_frauds() -> None:
    inputs, report = choose("amount")
    assert inputs.names == inputs.tree_names == NAMES
    assert inputs.transitions is None
    assert report["chosen"] is False
    assert set(report["average_precision"]) == {"without", "with"}


def test_user_numbers_of_several_shops_are_grouped() -> None:
    """Numbers of the second shop are above 2**32 (models.fraud.datasets.event_dataset)."""
    users = np.where(np.arange(len(USERS)) < 700, USERS, USERS + (1 << 32))
    assert choose("user_gap_3_before", users).report["chosen"] is True


def test_inputs_of_unseen_events_are_those_of_the_transitions_of_all_training_events() -> None:
    train, unseen = split("amount", 0), split("amount", 1)
    inputs = tree_inputs(train, NAMES, USERS, with_order=True)
    found = inputs.of(unseen)
    np.testing.assert_array_equal(found.x_NF, inputs.transitions.append(unseen.x_NF, inputs.names))
    np.testing.assert_array_equal(found.fraud_N, unseen.fraud_N)
    plain = tree_inputs(train, NAMES, USERS, with_order=False).of(unseen)
    np.testing.assert_array_equal(plain.x_NF, unseen.x_NF[:, : len(NAMES)])


def test_order_features_are_features_that_no_model_reads_unless_chosen() -> None:
    assert set(ORDER_FEATURES) < set(EVENT_FEATURES)
    assert not set(ORDER_FEATURES) & set(FEATURES)
    older = ("user_seconds_since_event", "user_seconds_since_purchase", "user_seconds_since_login")
    assert all(name in FEATURES for name in older)
