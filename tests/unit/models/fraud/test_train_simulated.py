"""Training on simulated shops: repeatability, columns of a shop, missing entities."""

import math
from pathlib import Path

import numpy as np
import pytest

from liveprofile.features.entity import SCORED_TYPES
from liveprofile.resources import product_path
from liveprofile.simulator import Shop, ShopConfig
from liveprofile.units import DAY_MS
from liveprofile.wire.scored_events import ENTITY_NAMES
from models.fraud.datasets.entity_history import EntityHistory
from models.fraud.datasets.event_dataset import SimulatedShop, simulate_shop
from models.fraud.model import FraudModel, probability
from models.fraud.training.evaluate import AlertCosts
from models.fraud.training.train_simulated import FraudRecipe, train_simulated

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
    costs=AlertCosts((30.0,)),
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
    assert set(metadata["thresholds"]) == set(test["at"]) == {"budget_30", "cost"}
    kinds = test["at"]["cost"]["kinds"]
    assert kinds["coupon_ring"]["alerted"] == 1.0
    assert {kind for kind, metrics in kinds.items() if metrics["cases"]} == set(kinds)
    assert metadata["validation"]["at"]["budget_30"]["alerts_per_10000"] <= 30
    assert metadata["recipe"]["train_seeds"] == [1]


def test_simulated_shop_has_scored_types_labels_and_encoded_ids() -> None:
    config = SMALL.training_config(1, SMALL.days)
    shop = simulate_shop(config)
    days = list(Shop(config))
    records = [record for day in days for record in day.records()]
    events = [event for event in records if event["event_type"] in SCORED_TYPES]
    labels = {label["event_id"]: label for day in days for label in day.labels.to_pylist()}
    assert len(events) == len(shop.time_ms_N)
    encoded = shop.history.events
    for name, column in (("device", "device_id"), ("coupon", "coupon_id")):
        ids = [event.get(column, "") for event in events]
        pairs = set(zip(ids, encoded.entities[name].tolist(), strict=True))
        assert len(pairs) == len(set(ids))
        assert ("" in ids) == (("", 0) in pairs)
    cells = [
        (math.floor(event["place"]["lat"] * 100), math.floor(event["place"]["lon"] * 100))
        for event in events
    ]
    pairs = set(zip(cells, encoded.entities["place"].tolist(), strict=True))
    assert len(pairs) == len(set(cells))
    for row in range(0, len(events), 11):
        label = labels.get(events[row]["event_id"])
        assert shop.fraud_N[row] == (label is not None and label["label"] == "fraud")
        assert shop.case_kind_N[row] == ("" if label is None else label["kind"])
        price_times_quantity = events[row].get("price", 0.0) * events[row].get("quantity", 1)
        assert encoded.amount[row] == events[row].get("amount", price_times_quantity)


@pytest.fixture(scope="module")
def honest_shop() -> SimulatedShop:
    """A shop without frauds."""
    no_frauds = {"takeovers": 0, "card_tests": 0, "rings": 0}
    return simulate_shop(ShopConfig(200, 14, seed=77, campaigns=1, **no_frauds))


@pytest.mark.parametrize(
    "missing",
    [(), ("device",), ("place",), ("device", "place"), ENTITY_NAMES],
    ids=lambda missing: " and ".join(missing) or "nothing",
)
def test_missing_entities_of_an_honest_shop_do_not_raise_scores(
    honest_shop: SimulatedShop, missing: tuple[str, ...]
) -> None:
    """Measures the shipped model from the second week on."""
    events = honest_shop.history.events
    no_ids = {name: np.zeros_like(events.entities[name]) for name in missing}
    history = EntityHistory(
        events._replace(entities=events.entities | no_ids), honest_shop.history.labels
    )
    rows = np.flatnonzero(honest_shop.time_ms_N > honest_shop.time_ms_N[0] + 7 * DAY_MS)
    model = FraudModel.load(product_path(Path("models/checkpoints/event-risk")))
    score_N = probability(model.log_odds(history.features(rows, model.names, model.delay_days)))
    assert len(rows) > 1_000
    assert (score_N >= 0.9).mean() < 0.002
