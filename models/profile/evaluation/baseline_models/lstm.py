"""Churn by an LSTM (Hochreiter and Schmidhuber 1997) over the user's last items.

A round trains on a sample of the training windows, because windows of consecutive days differ
little. The round with the best area under the ROC curve on validation is kept.

Shape suffixes: W windows, B windows of a batch, T = LENGTH tokens, D = DIM, H = HIDDEN, N tokens of
the streams, M tokens with an item id, I items.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.profile.evaluation.baseline_models.data import (
    BaselineData,
    BaselinePredictions,
    Predict,
    ranking_loss,
)

# Rows of the embedding: 0 is padding, then the most frequent training items, one for all others.
ROWS = 10_000
DIM, HIDDEN = 64, 128
LENGTH = 31
BATCH = 32
EPOCHS = 10  # at most; rounds are counted by their windows
WINDOWS_PER_ROUND = 20_000
PATIENCE = 4  # rounds without improvement
LEARNING_RATE = 3e-3  # better than Adam's usual 1e-3 on validation
SEED = 20170930


class ChurnLstm(nn.Module):
    def __init__(self, rows: int = ROWS):
        super().__init__()
        self.embedding = nn.Embedding(rows, DIM, padding_idx=0)
        self.lstm = nn.LSTM(DIM, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, item_BT: Tensor) -> Tensor:
        """(B,) log odds of churn. `item_BT`: embedding rows, padded with 0 on the right."""
        h_BTH, _ = self.lstm(self.embedding(item_BT))
        last_B = (item_BT > 0).sum(1).clamp(min=1) - 1
        return self.head(h_BTH[torch.arange(len(item_BT)), last_B]).squeeze(1)


class ItemHistories:
    """The last items of a window's user up to the window's end, as embedding rows."""

    def __init__(self, data: BaselineData, rows: int = ROWS):
        streams = data.corpus.streams
        has_item_N = np.array([bool(name) for name in streams.items])[streams.item_N]
        code_M = streams.item_N[has_item_N]
        in_training_M = streams.time_ms_N[has_item_N] <= data.train_until_ms
        counts_I = np.bincount(code_M[in_training_M], minlength=len(streams.items))
        row_I = np.full(len(counts_I), rows - 1)
        frequent = np.argsort(-counts_I, kind="stable")[: rows - 2]
        row_I[frequent] = 1 + np.arange(len(frequent))
        items_before = np.concatenate([[0], np.cumsum(has_item_N)])
        first_of_user_W = streams.first_W[np.searchsorted(streams.user_W, streams.user_W)]
        self._item_M = row_I[code_M]
        self._from_W = items_before[first_of_user_W]
        self._to_W = items_before[streams.last_W]

    def __call__(self, windows_B: np.ndarray) -> Tensor:
        """(B, T) int64, padded with 0 on the right."""
        to_B1 = self._to_W[windows_B][:, None]
        from_B1 = np.maximum(self._from_W[windows_B][:, None], to_B1 - LENGTH)
        index_BT = from_B1 + np.arange(LENGTH)
        item_BT = self._item_M[np.minimum(index_BT, len(self._item_M) - 1)]
        return torch.from_numpy(np.where(index_BT < to_B1, item_BT, 0))


def predictions(
    data: BaselineData,
    on_round: Callable[[int, int], None],
    epochs: float = EPOCHS,
    windows_per_round: int = WINDOWS_PER_ROUND,
) -> BaselinePredictions:
    """Churn as a probability. `on_round` receives the number of rounds done and their maximum."""
    torch.manual_seed(SEED)
    random = np.random.default_rng(SEED)
    network, histories = ChurnLstm(), ItemHistories(data)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    train = data.train
    windows = min(windows_per_round, len(train.windows_W))
    rounds = math.ceil(epochs * len(train.windows_W) / windows)
    best_loss, best_round, best_network = np.inf, 0, network
    for number in range(1, rounds + 1):
        sample = random.permutation(len(train.windows_W))[:windows]
        for batch in np.array_split(sample, math.ceil(windows / BATCH)):
            logit_B = network(histories(train.windows_W[batch]))
            churned_B = torch.from_numpy(train.churned_W[batch]).float()
            loss = F.binary_cross_entropy_with_logits(logit_B, churned_B)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        churn_W = _predict_churn(network, histories)(data.validation.windows_W)
        validation_loss = ranking_loss(data.validation, churn_W)
        on_round(number, rounds)
        if validation_loss < best_loss:
            best_loss, best_round = validation_loss, number
            best_network = copy.deepcopy(network)
        elif number - best_round >= PATIENCE:
            break
    chosen_settings = {"churn": {"round": best_round, "windows_per_round": windows}}
    churn = _predict_churn(best_network, histories)
    return BaselinePredictions.from_models(data, chosen_settings, churn=churn)


def _predict_churn(network: ChurnLstm, histories: ItemHistories) -> Predict:
    def predict(windows_W: np.ndarray) -> np.ndarray:
        batches = np.array_split(windows_W, math.ceil(len(windows_W) / 1_000))
        with torch.inference_mode():
            return np.concatenate(
                [network(histories(batch)).sigmoid().numpy() for batch in batches]
            )

    return predict
