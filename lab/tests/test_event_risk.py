"""Training on simulated shops, and missing entities."""

import numpy as np
import pytest

from lab.event_risk import FraudRecipe, hide_entities, train_simulated
from liveprofile.simulator import ShopConfig
from models.fraud.datasets.event_dataset import simulate_shop
from models.fraud.model import FraudModel

pytestmark = pytest.mark.slow

SMALL = FraudRecipe(
    users=180,
    days=13,
    warm_up_days=5,
    young_days=5,
    train_seeds=(1,),
    young_train_seeds=(2,),
    validation_seeds=(3,),
    test_seeds=(4,),
    young_test_seeds=(5,),
    takeovers=15,
    card_tests=10,
    rings=2,
    honest_changes=20,
    campaigns=1,
    legitimate_rows=1_000,
    settings=((3, 30, 0.3),),
)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> FraudModel:
    folder = tmp_path_factory.mktemp("small")
    train_simulated(SMALL, folder)
    return FraudModel.load(folder)


def test_model_finds_frauds_in_shops_of_other_seeds(small_model: FraudModel) -> None:
    metadata = small_model.metadata
    test = metadata["test"]
    assert test["frauds"] > 0
    assert test["average_precision"] > 0.5
    assert (
        set(metadata["thresholds"])
        == set(test["at"])
        == {"budget_10", "budget_20", "budget_30", "cost"}
    )
    kinds = test["at"]["cost"]["kinds"]
    assert kinds["coupon_ring"]["alerted"] == 1.0
    assert {kind for kind, metrics in kinds.items() if metrics["cases"]} == set(kinds)
    assert metadata["validation"]["at"]["budget_30"]["alerts_per_10000"] <= 30
    assert metadata["recipe"]["train_seeds"] == [1]


def test_hide_entities_removes_each_kind_for_half_of_the_users() -> None:
    shop = simulate_shop(ShopConfig(200, 7, seed=77))
    hidden = hide_entities(shop, seed=1).history.events.entities["device"]
    before = shop.history.events.entities["device"]
    assert ((hidden == before) | (hidden == 0)).all()
    users = np.unique(shop.user_N)
    without = [user for user in users if not hidden[shop.user_N == user].any()]
    unchanged = [user for user in users if (hidden == before)[shop.user_N == user].all()]
    assert {*without, *unchanged} == {*users} and 0.35 < len(without) / len(users) < 0.65
