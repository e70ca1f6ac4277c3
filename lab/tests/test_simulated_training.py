"""Simulated shops, their lists, training on them, and missing entities."""

import math

import numpy as np
import pytest

from intake.simulator import Shop, ShopConfig
from lab.simulated.entity_history import EntityHistory, EventColumns, LabelColumns
from lab.simulated.shops import simulate_shop
from lab.simulated.train import FraudRecipe, hide_entities, train_simulated
from liveprofile.features.entity import (
    SCORED_TYPES,
    features_from_lists,
    parse_lists,
)
from liveprofile.resources import product_path
from liveprofile.settings import load
from liveprofile.units import DAY_MS
from liveprofile.wire.scored_events import ENTITY_NAMES, read_rows
from models.fraud.model import FraudModel, probability
from tests.reference.entity_features import TYPE_LETTERS, Arrival, Event, Label
from tests.reference.scoring import event_parts
from tests.support.scoring_harness import random_arrivals

pytestmark = pytest.mark.slow

NO_LABELS = LabelColumns(*np.empty((3, 0), np.int64))
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


def test_simulated_shop_has_scored_types_labels_and_encoded_ids() -> None:
    config = ShopConfig(180, 10, seed=1, takeovers=9, rings=1)
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


@pytest.mark.parametrize("missing", [(), ENTITY_NAMES], ids=["nothing", "all"])
def test_missing_entities_of_an_honest_shop_do_not_raise_scores(missing: tuple[str, ...]) -> None:
    """Measures the shipped model from the second week on."""
    no_frauds = {"takeovers": 0, "card_tests": 0, "rings": 0}
    shop = simulate_shop(ShopConfig(200, 14, seed=77, campaigns=1, **no_frauds))
    events = shop.history.events
    no_ids = {name: np.zeros_like(events.entities[name]) for name in missing}
    history = EntityHistory(
        events._replace(entities=events.entities | no_ids),
        LabelColumns(*np.empty((3, 0), np.int64)),
    )
    rows = np.flatnonzero(shop.time_ms_N > shop.time_ms_N[0] + 7 * DAY_MS)
    model = FraudModel.load(product_path(load().scoring.checkpoint))
    score_N = probability(model.log_odds(history.features(rows, model.names, model.delay_days)))
    assert len(rows) > 1_000
    assert (score_N >= 0.9).mean() < 0.002


def codes(values: list[str]) -> np.ndarray:
    """Encodes texts as numbers from 1; the empty text as 0."""
    found = {value: number for number, value in enumerate(sorted({*values} - {""}), 1)}
    return np.array([found.get(value, 0) for value in values], np.int32)


@pytest.mark.parametrize("keep", [2, 128])
def test_lists_built_from_files_equal_the_job_lists(keep: int) -> None:
    """Compares lists that are built from arrays with lists parsed from the job's text."""
    arrivals = random_arrivals(3)
    labels = [one for one in arrivals if isinstance(one, Label)]
    events = list(dict.fromkeys(one for one in arrivals if isinstance(one, Event)))
    # In a file, the time of a label is the only information on its arrival.
    arrived: list[Arrival] = sorted(
        [*events, *labels], key=lambda one: (one.time_ms, isinstance(one, Event))
    )
    history = EntityHistory(
        EventColumns(
            np.array([one.time_ms for one in events]),
            np.array([ord(TYPE_LETTERS[one.type]) for one in events], np.uint8),
            np.array([one.amount for one in events]),
            codes([one.id for one in events]),
            codes([one.user for one in events]),
            {name: codes([getattr(one, name) for one in events]) for name in ENTITY_NAMES},
        ),
        LabelColumns(
            np.array([events.index(label.event) for label in labels], np.int64),
            np.array([label.fraud for label in labels], bool),
            np.array([label.time_ms for label in labels], np.int64),
        ),
        keep,
    )
    rows = [row for row, one in enumerate(arrived) if isinstance(one, Event)]
    texts = [event_parts(arrived, row, keep) for row in rows]
    job_lists = parse_lists(read_rows([event.user for event in events], texts))
    found = features_from_lists(history.rows(np.arange(len(events))), delay_days=1)
    expected = features_from_lists(job_lists, delay_days=1)
    np.testing.assert_array_equal(found, expected)
