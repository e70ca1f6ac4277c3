"""A Transformer that reads a user's last events beside the trees.

Its log-odds are an input of the trees (stacking, Wolpert 1992, "Stacked generalization"). For
training events they come from a network that was not fitted on the event's user.

Shape suffixes: n events, L last events of each, the scored one first, F fields, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from liveprofile.features.entity import EventLists
from liveprofile.features.entity.past_events import PastEvents
from liveprofile.units import SECOND_MS
from liveprofile.wire.tokens import TYPE_LETTERS

LENGTH = 16  # events that the Transformer reads
FOLDS = 3
SEED = 20180801
EPOCHS, BATCH, LEARNING_RATE = 16, 256, 4e-3
LEGITIMATE_PER_EPOCH = 8_000
_NO_EVENT = 0  # type
_TYPES = len(TYPE_LETTERS) + 1
_GAPS = 40  # buckets of the Transformer: half octaves of seconds; 0: no earlier event
_AMOUNTS = 16


class LastEvents(NamedTuple):
    """The last events of n users, the scored event first."""

    type_nL: np.ndarray  # 1 + position in TYPE_LETTERS; 0: no event
    gap_nL: np.ndarray  # seconds since the event before; NaN: none
    amount_nL: np.ndarray

    def take(self, rows: np.ndarray) -> LastEvents:
        return LastEvents(*(column[rows] for column in self))


def last_events(rows: EventLists, length: int = LENGTH) -> LastEvents:
    past = PastEvents(rows.user_lists, rows.event_ms)
    index_nL = np.array([past.index_of_earlier(back) for back in range(length + 1)]).T
    type_T = np.append(past.letter_T.astype(np.int64) - ord(TYPE_LETTERS[0]) + 1, _NO_EVENT)
    age_T = np.append(past.age_T / SECOND_MS, np.nan)
    gap_nL = age_T[index_nL[:, 1:]] - age_T[index_nL[:, :-1]]
    index_nL = index_nL[:, :-1]
    return LastEvents(type_T[index_nL], gap_nL, np.append(past.amount_T, 0.0)[index_nL])


class _Network(nn.Module):
    """A Transformer encoder (arXiv:1706.03762) that reads its output at the scored event."""

    def __init__(self, width: int = 32, layers: int = 2, heads: int = 2, dropout: float = 0.1):
        super().__init__()
        self.table = nn.Embedding(_TYPES + _GAPS + _AMOUNTS, width)
        self.position = nn.Parameter(torch.randn(LENGTH, width) * 0.1)
        nn.init.normal_(self.table.weight, std=0.1)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1)

    def forward(self, token_nLF: Tensor) -> Tensor:
        """Returns (n,) log-odds from three rows of the table for each event."""
        x_nLD = self.table(token_nLF).sum(2) + self.position
        h_nLD = self.encoder(x_nLD, src_key_padding_mask=token_nLF[:, :, 0] == _NO_EVENT)
        return self.head(self.norm(h_nLD[:, 0])).squeeze(1)


def _tokens(events: LastEvents) -> Tensor:
    half_octave_nL = 1 + np.log2(1 + np.nan_to_num(events.gap_nL)) * 2
    gap_nL = np.where(np.isnan(events.gap_nL), 0, np.minimum(half_octave_nL, _GAPS - 1))
    amount_nL = np.minimum(np.log1p(events.amount_nL) * 2, _AMOUNTS - 1)
    fields = (events.type_nL, _TYPES + gap_nL, _TYPES + _GAPS + amount_nL)
    return torch.from_numpy(np.stack(fields, axis=-1).astype(np.int64))


Predict = Callable[[LastEvents], np.ndarray]  # to (n,) log-odds


def fit_transformer(events: LastEvents, fraud_n: np.ndarray, epochs: int = EPOCHS) -> Predict:
    """Fits by AdamW (arXiv:1711.05101) with a one-cycle learning rate (arXiv:1708.07120).

    An epoch has every fraud and a new sample of other events.
    """
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    token_nLF, target_n = _tokens(events), torch.from_numpy(fraud_n.astype(np.float32))
    frauds, others = np.flatnonzero(fraud_n), np.flatnonzero(~fraud_n)
    sampled = min(LEGITIMATE_PER_EPOCH, len(others))
    steps = -(-(len(frauds) + sampled) // BATCH) * epochs
    network = _Network().train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(epochs):
        drawn = rng.choice(others, sampled, replace=False)
        order = torch.from_numpy(rng.permutation(np.concatenate([frauds, drawn])))
        for rows in order.split(BATCH):
            loss = nn.functional.binary_cross_entropy_with_logits(
                network(token_nLF[rows]), target_n[rows]
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    network.eval()

    def predict(events: LastEvents) -> np.ndarray:
        with torch.inference_mode():
            parts = [network(part) for part in _tokens(events).split(1_000)]
        return torch.cat(parts).numpy()

    return predict


def out_of_fold(
    fit: Callable[[LastEvents, np.ndarray], Predict],
    events: LastEvents,
    fraud_n: np.ndarray,
    user_n: np.ndarray,
) -> np.ndarray:
    """Returns (n,) log-odds of each event from a network that was not fitted on its user."""
    log_odds_n = np.empty(len(fraud_n), np.float32)
    for fold in range(FOLDS):
        held_out = np.flatnonzero(user_n % FOLDS == fold)
        others = np.flatnonzero(user_n % FOLDS != fold)
        log_odds_n[held_out] = fit(events.take(others), fraud_n[others])(events.take(held_out))
    return log_odds_n
