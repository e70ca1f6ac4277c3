"""Faithfulness of reasons: the measures fail for wrong rankings, the reasons pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from intake.simulator import ShopConfig
from lab.reasons import faithfulness as measures
from lab.reasons.faithfulness import faithfulness_events
from lab.simulated.shops import SimulatedDataset, simulate_dataset
from liveprofile.resources import product_path
from liveprofile.wire.tokens import EVENT_TYPES
from models.fraud.model import FraudModel, probability
from models.fraud.reasons import feature_groups
from models.profile.evaluation.intervals import UserBootstrap
from tests.support.one_feature_model import one_feature_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shipped() -> FraudModel:
    from liveprofile.settings import load

    return FraudModel.load(product_path(load().scoring.checkpoint))


@pytest.fixture(scope="module")
def shop(shipped: FraudModel) -> SimulatedDataset:
    """A shop that no version was trained or tested on."""
    config = ShopConfig(1_000, 30, seed=90_001, takeovers=25, card_tests=12, rings=2)
    return simulate_dataset(config, shipped.names, shipped.delay_days, 10, None)


@pytest.fixture(scope="module")
def flagged(shipped: FraudModel, shop: SimulatedDataset) -> np.ndarray:
    score_M = probability(shipped.log_odds(shop.events.labelled.x_NF))
    return faithfulness_events(shop, score_M >= 0.9)


@pytest.fixture(scope="module")
def inputs(
    shipped: FraudModel, shop: SimulatedDataset, flagged: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The flagged events and their usual values."""
    types = [EVENT_TYPES[index] for index in shop.events.type_M[flagged]]
    return shop.events.labelled.x_NF[flagged], np.array([shipped.usual_for(name) for name in types])


def test_measures_fail_for_reversed_rankings(
    shipped: FraudModel, inputs: tuple[np.ndarray, np.ndarray]
) -> None:
    ranks = measures.rankings(shipped, *inputs)
    reversed_nG = ranks["reasons"][:, ::-1]
    for inserts in (False, True):
        best, random, worst = (
            measures.curves(shipped, *inputs, order, inserts).mean()
            for order in (ranks["reasons"], ranks["random"], reversed_nG)
        )
        assert (worst < random < best) if inserts else (best < random < worst)
    assert measures.stability(shipped, inputs[0], reversed_nG) < 0.1


def test_reasons_delete_and_insert_the_score_better_than_random_groups(
    shipped: FraudModel,
    shop: SimulatedDataset,
    flagged: np.ndarray,
    inputs: tuple[np.ndarray, np.ndarray],
) -> None:
    ranks = measures.rankings(shipped, *inputs)
    bootstrap = UserBootstrap(shop.events.user_M[flagged])
    for inserts, sign in ((False, -1), (True, 1)):
        of_ranking = {
            name: sign * measures.curves(shipped, *inputs, ranks[name], inserts)
            for name in measures.RANKINGS
        }
        assert bootstrap.mean(of_ranking["reasons"], of_ranking["random"]).low > 0.2
        # Occlusion deletes best, because it measures the first deletion.
        assert bootstrap.mean(of_ranking["reasons"], of_ranking["occlusion"]).low > -0.3


def test_top_reason_is_a_planted_cause_more_often_than_chance(
    shipped: FraudModel,
    shop: SimulatedDataset,
    flagged: np.ndarray,
    inputs: tuple[np.ndarray, np.ndarray],
) -> None:
    types = [EVENT_TYPES[index] for index in shop.events.type_M[flagged]]
    kinds = shop.case_kind_M[flagged].tolist()
    report = measures.faithfulness(shipped, inputs[0], types, kinds)
    assert set(report["planted_cause"]) == set(measures.PLANTED_CAUSES)
    for of_kind in report["planted_cause"].values():
        assert of_kind["events"] >= 20
        assert of_kind["reasons"]["first"] > 0.6 > 2 * of_kind["random"]["first"]
        assert of_kind["reasons"]["first_3"] > 0.8


def test_top_reason_stays_under_small_changes(
    shipped: FraudModel, inputs: tuple[np.ndarray, np.ndarray]
) -> None:
    ranks = measures.rankings(shipped, *inputs)
    assert measures.stability(shipped, inputs[0], ranks["reasons"]) > 0.9


def test_planted_causes_are_codes_of_groups(shipped: FraudModel) -> None:
    codes = {group.code for group in feature_groups(tuple(shipped.names))}
    assert set.union(*measures.PLANTED_CAUSES.values()) <= codes


def test_only_group_of_a_model_is_first_in_every_ranking_but_random() -> None:
    model = one_feature_model("user_purchases_7d", 3)
    model = replace(model, usual={"any": [0.0] * len(model.names)})
    x = np.zeros((8, len(model.names)), np.float32)
    x[:, model.names.index("user_purchases_7d")] = 9
    ranks = measures.rankings(model, x, np.zeros_like(x))
    groups = feature_groups(tuple(model.names))
    for name in ("reasons", "occlusion"):
        assert {groups[index].code for index in ranks[name][:, 0]} == {"BURST"}
        assert measures.curves(model, x, np.zeros_like(x), ranks[name], False).max() == 0
        assert measures.curves(model, x, np.zeros_like(x), ranks[name], True).min() == 1


def test_no_flagged_events_give_no_measures(shipped: FraudModel) -> None:
    nothing = np.empty((0, len(shipped.names)), np.float32)
    assert measures.faithfulness(shipped, nothing, []) == {"events": 0}
