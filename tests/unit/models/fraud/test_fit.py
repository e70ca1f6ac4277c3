"""The forest that training adds to the boosted trees."""

from __future__ import annotations

import numpy as np
import pytest
import xgboost as xgb

from models.fraud.datasets.event_dataset import LabelledFeatures
from models.fraud.model import trees_log_odds
from models.fraud.training.fit import FOREST_TREES, fit_trees

NAMES = ["first", "second", "third"]
BOOSTED = {"max_depth": 2, "rounds": 20, "eta": 0.1}
FOREST = 6.0


def events(noise: float = 0.0, count: int = 4_000) -> LabelledFeatures:
    """Each column decides which events are frauds, up to noise; a twentieth is.

    A node of the forest sees one of the three columns, drawn by chance.
    """
    random = np.random.default_rng(3)
    first_N = random.standard_normal(count)
    x_NF = np.column_stack([first_N, -first_N, np.exp(first_N)]).astype(np.float32)
    suspicion_N = first_N + noise * random.standard_normal(count)
    return LabelledFeatures(x_NF, suspicion_N > np.quantile(suspicion_N, 0.95))


def forest_log_odds(
    dataset: LabelledFeatures, legitimate_weight: float, boosted: dict
) -> np.ndarray:
    """(N,) what the forest adds."""
    alone, both = (
        fit_trees(dataset, legitimate_weight, NAMES, boosted | {"forest": forest})
        for forest in (0.0, FOREST)
    )
    return trees_log_odds(both, dataset.x_NF) - trees_log_odds(alone, dataset.x_NF)


@pytest.mark.parametrize("legitimate_weight", [1.0, 4.0])
def test_forest_adds_its_log_odds_times_the_share_of_frauds_above_the_average(
    legitimate_weight: float,
) -> None:
    dataset = events()
    added_N = forest_log_odds(dataset, legitimate_weight, BOOSTED)
    share = 0.05 / (0.05 + 0.95 * legitimate_weight)
    # The leaves of these events are pure, apart from events at the border between both kinds.
    assert np.median(added_N[dataset.fraud_N]) == pytest.approx(FOREST * (1 - share), rel=0.05)
    assert np.median(added_N[~dataset.fraud_N]) == pytest.approx(-FOREST * share, rel=0.05)


def test_forest_does_not_depend_on_the_boosted_trees() -> None:
    dataset = events(noise=0.5)
    added_N = forest_log_odds(dataset, 1.0, BOOSTED)
    others_N = forest_log_odds(dataset, 1.0, {"max_depth": 5, "rounds": 20, "eta": 0.3})
    np.testing.assert_allclose(added_N, others_N, atol=1e-4)


def test_forest_follows_the_boosted_trees_in_one_logistic_booster() -> None:
    dataset = events(noise=0.5)
    alone, both = (
        fit_trees(dataset, 1.0, NAMES, BOOSTED | {"forest": forest}) for forest in (0.0, FOREST)
    )
    rounds = BOOSTED["rounds"]
    assert alone.num_boosted_rounds() == rounds
    assert both.num_boosted_rounds() == rounds + FOREST_TREES
    assert both.get_dump()[:rounds] == alone.get_dump()
    loaded = xgb.Booster(model_file=both.save_raw("ubj"))
    score_N = loaded.inplace_predict(dataset.x_NF)
    np.testing.assert_allclose(
        score_N, 1 / (1 + np.exp(-trees_log_odds(both, dataset.x_NF))), rtol=1e-4
    )
