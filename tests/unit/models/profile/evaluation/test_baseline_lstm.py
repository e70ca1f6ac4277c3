"""The LSTM baseline model of churn."""

import numpy as np
import pytest
import torch

from models.profile.evaluation.baseline_models import lstm
from models.profile.evaluation.baseline_models.data import BaselineData, ranking_loss
from tests.unit.models.profile.synthetic_streams import (
    churning_customers,
    corpus_and_split,
    ignore_progress,
    views_and_purchases,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data():
    return BaselineData.from_corpus(*corpus_and_split(churning_customers()))


def test_item_histories_hold_the_last_named_items(data):
    streams = views_and_purchases()
    histories = lstm.ItemHistories(
        data._replace(corpus=data.corpus._replace(streams=streams)), rows=12
    )
    item_WT = histories(np.arange(len(streams.user_W))).numpy()
    counts = np.bincount(streams.item_N[streams.time_ms_N <= data.train_until_ms], minlength=30)
    frequent = sorted(range(1, 30), key=lambda code: (-counts[code], code))[:10]
    for window in range(0, len(streams.user_W), 13):
        first = streams.first_W[np.flatnonzero(streams.user_W == streams.user_W[window])[0]]
        items = streams.item_N[first : streams.last_W[window]]
        codes = [int(code) for code in items if code][-31:]
        rows = [1 + frequent.index(code) if code in frequent else 11 for code in codes]
        assert item_WT[window].tolist() == rows + [0] * (31 - len(rows))


def test_lstm_learns_which_items_precede_churn(data):
    predictions = lstm.predictions(data, ignore_progress, epochs=3)
    assert 1 <= predictions.chosen_settings["churn"]["round"] <= 3
    assert ranking_loss(data.validation, predictions.validation.churn_W) < 0.3


def test_lstm_training_is_repeatable(data):
    runs = [lstm.predictions(data, ignore_progress, 0.1, windows_per_round=100) for _ in range(2)]
    np.testing.assert_array_equal(runs[0].test.churn_W, runs[1].test.churn_W)


def test_padding_does_not_change_the_lstm_output():
    torch.manual_seed(0)
    network = lstm.ChurnLstm(20)
    short, padded = torch.tensor([[3, 4, 5]]), torch.tensor([[3, 4, 5, 0, 0]])
    torch.testing.assert_close(network(short), network(padded))
