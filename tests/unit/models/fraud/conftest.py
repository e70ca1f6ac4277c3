"""A fraud model trained on generated card transactions, for tests of the model and its reasons."""

from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from liveprofile.features.entity import EventLists
from models.fraud.card_transactions.data import TrainTestPeriod, Transactions
from models.fraud.model import FraudModel
from models.fraud.training.train_handbook import build_history, train_handbook
from tests.support.rows.card_transactions import DELAY_DAYS, make_transactions


class TrainedModel(NamedTuple):
    model: FraudModel  # as loaded from `folder`
    report: dict[str, Any]
    folder: Path
    data: Transactions
    test_rows: np.ndarray  # all transactions from the start of the test on
    lists: EventLists  # of the test rows
    columns: dict[str, np.ndarray]  # the model's inputs of the test rows


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    data = make_transactions(4_000)
    period = TrainTestPeriod.from_dates(
        date(2018, 4, 25), date(2018, 5, 2), DELAY_DAYS, date(2018, 5, 6), date(2018, 5, 20)
    )
    folder = tmp_path_factory.mktemp("model")
    report = train_handbook(data, period, folder, span_sets=("coarse",))
    model = FraudModel.load(folder)
    test_rows = np.flatnonzero(data.day_N >= period.test_start)
    lists = build_history(data, DELAY_DAYS).rows(test_rows)
    return TrainedModel(model, report, folder, data, test_rows, lists, model.columns(lists))
