"""A fraud model trained on generated card purchases, for tests of the model and its reasons."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from liveprofile.features.entity import (
    EVENT_FEATURES,
    ORDER_FEATURES,
    EventLists,
    type_letter,
)
from liveprofile.units import DAY_MS
from models.fraud.datasets.entity_history import EntityHistory, EventColumns, LabelColumns
from models.fraud.datasets.event_dataset import LabelledFeatures
from models.fraud.model import FraudModel
from models.fraud.training.fit import (
    SETTINGS,
    build_model,
    fit_calibration,
    tree_inputs,
    tune_trees,
)
from tests.support.rows.card_transactions import DELAY_DAYS, Transactions, make_transactions

NAMES = [
    name for name in EVENT_FEATURES if name.split("_")[0] in ("amount", "hour", "user", "shop")
]
NAMES = [name for name in NAMES if name not in ORDER_FEATURES]


class TrainedModel(NamedTuple):
    model: FraudModel  # as loaded from `folder`
    folder: Path
    data: Transactions
    test_rows: np.ndarray  # the later ones
    lists: EventLists  # of the test rows
    columns: dict[str, np.ndarray]  # the model's inputs of the test rows


def build_history(data: Transactions) -> EntityHistory:
    """A card is a user, a terminal a shop. A fraud has a label after DELAY_DAYS."""
    count, frauds = len(data.time_ms_N), np.flatnonzero(data.fraud_N)
    events = EventColumns(
        data.time_ms_N,
        np.full(count, type_letter("purchase"), np.uint8),
        data.amount_N,
        np.arange(1, count + 1, dtype=np.int32),
        (data.card_N + 1).astype(np.int32),
        {"shop": (data.terminal_N + 1).astype(np.int32)},
    )
    known_ms = data.time_ms_N[frauds] + DELAY_DAYS * DAY_MS
    return EntityHistory(events, LabelColumns(frauds, np.ones(len(frauds), bool), known_ms))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """Trained on the middle of the time with the order of events, calibrated on what follows."""
    data = make_transactions(4_000)
    history = build_history(data)
    parts = [
        LabelledFeatures(
            history.features(rows, [*NAMES, *ORDER_FEATURES], DELAY_DAYS), data.fraud_N[rows]
        )
        for rows in (np.arange(1_500, 2_500), np.arange(2_500, 3_000))
    ]
    inputs = tree_inputs(parts[0], NAMES, data.card_N[1_500:2_500], with_order=True)
    validation = inputs.of(parts[1])
    tuned = tune_trees(inputs.train, 1.0, validation, inputs.tree_names, SETTINGS[:1])
    model = build_model(
        "cards",
        tuned.booster,
        fit_calibration(tuned.log_odds_N, validation.fraud_N),
        inputs.train,
        inputs.names,
        float(DELAY_DAYS),
        {},
        inputs.transitions,
    )
    folder = tmp_path_factory.mktemp("model")
    model.save(folder)
    model = FraudModel.load(folder)
    test_rows = np.arange(3_000, 4_000)
    lists = history.rows(test_rows)
    return TrainedModel(model, folder, data, test_rows, lists, model.columns(lists))
