"""Churn by an LSTM (Hochreiter and Schmidhuber 1997) over the last items that a user had.

A round sees a sample of the training windows, since they differ little from one day to the next;
the round with the best area under the ROC curve on validation is kept.

Shape suffixes: B windows, T = LENGTH tokens, D = DIM, H = HIDDEN.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.profile.evaluation.baselines.data import Data, Predict, Predictions, ranking_loss

ROWS = 10_000  # of the embedding: 0 padding, the items most frequent in training, one for the rest
DIM, HIDDEN = 64, 128
LENGTH = 31
BATCH = 32
EPOCHS = 10  # at most, in rounds that make up as many windows
WINDOWS_PER_ROUND = 20_000
PATIENCE = 4  # rounds without a better one
LEARNING_RATE = 3e-3  # better than Adam's usual 1e-3 on validation
SEED = 20170930


class Classifier(nn.Module):
    def __init__(self, rows: int = ROWS):
        super().__init__()
        self.embedding = nn.Embedding(rows, DIM, padding_idx=0)
        self.lstm = nn.LSTM(DIM, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, item_BT: Tensor) -> Tensor:
        """(B,) log odds of churn; rows padded with 0 on the right."""
        h_BTH, _ = self.lstm(self.embedding(item_BT))
        last_B = (item_BT > 0).sum(1).clamp(min=1) - 1
        return self.head(h_BTH[torch.arange(len(item_BT)), last_B]).squeeze(1)


class Sequences:
    """The last items of any window's user up to its end, as rows of the embedding."""

    def __init__(self, data: Data, rows: int = ROWS):
        streams = data.corpus.streams
        named_N = np.array([bool(name) for name in streams.items])[streams.item_N]
        code_M = streams.item_N[named_N]
        trained_M = streams.time_ms_N[named_N] <= data.train_until_ms
        counts_I = np.bincount(code_M[trained_M], minlength=len(streams.items))
        row_I = np.full(len(counts_I), rows - 1)
        frequent = np.argsort(-counts_I, kind="stable")[: rows - 2]
        row_I[frequent] = 1 + np.arange(len(frequent))
        named = np.concatenate([[0], np.cumsum(named_N)])
        first_of_user_W = streams.first_W[np.searchsorted(streams.user_W, streams.user_W)]
        self._item_M = row_I[code_M]
        self._from_W, self._to_W = named[first_of_user_W], named[streams.last_W]

    def __call__(self, windows_B: np.ndarray) -> Tensor:
        """(B, T) int64, padded with 0 on the right."""
        to_B1 = self._to_W[windows_B][:, None]
        from_B1 = np.maximum(self._from_W[windows_B][:, None], to_B1 - LENGTH)
        place_BT = from_B1 + np.arange(LENGTH)
        item_BT = self._item_M[np.minimum(place_BT, len(self._item_M) - 1)]
        return torch.from_numpy(np.where(place_BT < to_B1, item_BT, 0))


def predictions(
    data: Data,
    on_round: Callable[[int, int], None],
    epochs: float = EPOCHS,
    windows_per_round: int = WINDOWS_PER_ROUND,
) -> Predictions:
    """Churn as a probability. `on_round` gets how many rounds are done, of how many at most."""
    torch.manual_seed(SEED)
    random = np.random.default_rng(SEED)
    network, sequences = Classifier(), Sequences(data)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    train = data.train
    windows = min(windows_per_round, len(train.windows_W))
    rounds = math.ceil(epochs * len(train.windows_W) / windows)
    best_loss, best_round, best = np.inf, 0, network
    for number in range(1, rounds + 1):
        seen = random.permutation(len(train.windows_W))[:windows]
        for part in np.array_split(seen, math.ceil(windows / BATCH)):
            logit_B = network(sequences(train.windows_W[part]))
            left_B = torch.from_numpy(train.left_W[part]).float()
            loss = F.binary_cross_entropy_with_logits(logit_B, left_B)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        churn_W = _churn(network, sequences)(data.validation.windows_W)
        lost = ranking_loss(data.validation, churn_W)
        on_round(number, rounds)
        if lost < best_loss:
            best_loss, best_round, best = lost, number, copy.deepcopy(network)
        elif number - best_round >= PATIENCE:
            break
    chosen = {"churn": {"round": best_round, "windows_per_round": windows}}
    return Predictions.of(data, chosen, churn=_churn(best, sequences))


def _churn(network: Classifier, sequences: Sequences) -> Predict:
    def predict(windows_W: np.ndarray) -> np.ndarray:
        parts = np.array_split(windows_W, math.ceil(len(windows_W) / 1_000))
        with torch.inference_mode():
            return np.concatenate([network(sequences(part)).sigmoid().numpy() for part in parts])

    return predict
