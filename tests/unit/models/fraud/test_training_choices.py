"""What the training of the fraud model chooses: order, the forest, thresholds."""

import numpy as np
import pytest

from liveprofile.features.entity import ORDER_FEATURES
from models.fraud.datasets.event_dataset import LabelledFeatures
from models.fraud.model import trees_log_odds
from models.fraud.training.evaluate import NO_ALERT_SCORE, threshold_by_budget, threshold_by_cost
from models.fraud.training.fit import choose_order, fit_trees
from models.fraud.transitions import COLUMNS

SETTING = {"max_depth": 2, "rounds": 20, "eta": 0.3}
ORDER_NAMES = ["amount", "user_seconds_since_event"]
COLUMN_NAMES = ["first", "second", "third"]
BOOSTED = {"max_depth": 2, "rounds": 20, "eta": 0.1}
FOREST = 6.0
USERS = np.arange(1_500) % 300


def order_split(decisive, seed):
    """Events whose label is the sign of one column. Types are 0 to 5, gaps above 0."""
    columns, random = [*ORDER_NAMES, *ORDER_FEATURES], np.random.default_rng(seed)
    x_NF = random.lognormal(3, 2, (len(USERS), len(columns))).astype(np.float32)
    for column, name in enumerate(columns):
        if name.startswith("user_type"):
            x_NF[:, column] = random.integers(6, size=len(USERS))
    decisive_N = x_NF[:, columns.index(decisive)]
    return LabelledFeatures(x_NF, decisive_N > np.quantile(decisive_N, 0.8))


def choose(decisive):
    train, validation = order_split(decisive, 0), order_split(decisive, 1)
    return choose_order(train, USERS, 1.0, validation, USERS, ORDER_NAMES, SETTING)


def test_order_is_chosen_if_it_shows_the_frauds():
    inputs, report = choose("user_gap_3_before")
    assert inputs.names == [*ORDER_NAMES, *ORDER_FEATURES]
    assert inputs.tree_names == [*inputs.names, *COLUMNS]
    assert inputs.transitions is not None
    assert inputs.train.x_NF.shape == (len(USERS), len(inputs.tree_names))
    assert report["chosen"] is True
    assert report["gain_95"][0] > 0.5


def test_order_is_not_chosen_if_other_features_show_the_frauds():
    inputs, report = choose("amount")
    assert inputs.names == inputs.tree_names == ORDER_NAMES
    assert inputs.transitions is None
    assert report["chosen"] is False
    assert set(report["average_precision"]) == {"without", "with"}


def events(noise=0.0, count=4_000):
    """Each column decides which events are frauds, up to noise; a twentieth is.

    A node of the forest sees one of the three columns, drawn by chance.
    """
    random = np.random.default_rng(3)
    first_N = random.standard_normal(count)
    x_NF = np.column_stack([first_N, -first_N, np.exp(first_N)]).astype(np.float32)
    suspicion_N = first_N + noise * random.standard_normal(count)
    return LabelledFeatures(x_NF, suspicion_N > np.quantile(suspicion_N, 0.95))


def forest_log_odds(dataset, legitimate_weight, boosted):
    """(N,) what the forest adds."""
    alone, both = (
        fit_trees(dataset, legitimate_weight, COLUMN_NAMES, boosted | {"forest": forest})
        for forest in (0.0, FOREST)
    )
    return trees_log_odds(both, dataset.x_NF) - trees_log_odds(alone, dataset.x_NF)


@pytest.mark.parametrize("legitimate_weight", [1.0, 4.0])
def test_forest_adds_its_log_odds_times_the_share_of_frauds_above_the_average(legitimate_weight):
    dataset = events()
    added_N = forest_log_odds(dataset, legitimate_weight, BOOSTED)
    share = 0.05 / (0.05 + 0.95 * legitimate_weight)
    # The leaves of these events are pure, apart from events at the border between both kinds.
    assert np.median(added_N[dataset.fraud_N]) == pytest.approx(FOREST * (1 - share), rel=0.05)
    assert np.median(added_N[~dataset.fraud_N]) == pytest.approx(-FOREST * share, rel=0.05)


def test_threshold_by_cost_has_the_minimum_cost_of_all_thresholds():
    random = np.random.default_rng(5)
    for _ in range(20):
        score = np.floor(random.random(60) * 10) / 10  # with ties
        fraud, amount = random.random(60) < score / 2, random.lognormal(3, 1, 60)
        false_alarm = float(random.choice([0, 5, 40]))

        def cost(threshold, score=score, fraud=fraud, amount=amount):
            alert = score >= threshold
            return (alert & ~fraud).sum() * false_alarm + amount[fraud & ~alert].sum()  # noqa: B023

        threshold = threshold_by_cost(score, fraud, amount, false_alarm)
        assert cost(threshold) == pytest.approx(min(map(cost, [*score, NO_ALERT_SCORE + 1])))


def test_threshold_by_budget_is_the_lowest_that_keeps_the_budget():
    random = np.random.default_rng(6)
    score = np.floor(random.random(500) * 100) / 100
    day, user = random.integers(0, 10, 500), random.integers(0, 40, 500)

    def flagged(threshold):
        alert = score >= threshold
        return len({(d, u) for d, u in zip(day[alert], user[alert], strict=True)})

    for budget in (0.1, 1, 4, 1_000):
        threshold = threshold_by_budget(score, day, user, 10 * budget)
        assert flagged(threshold) <= 10 * budget
        lower = score[score < threshold]
        assert not len(lower) or flagged(lower.max()) > 10 * budget
