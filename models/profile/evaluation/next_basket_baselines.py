"""Baseline models of next baskets, tuned on validation like the user model.

Popularity, the user's own counts and an LSTM. Popularity comes from the training windows, or from
training and validation when the test split is ranked.

The LSTM (Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735) works as GRU4Rec (Hidasi
et al. 2016, arXiv:1511.06939): it reads the codes of all windows in order, those of one window in a
random order that is drawn anew for each epoch, and predicts the next code by a softmax over sampled
codes with the logQ correction (Bengio and Senecal 2008). The state after the last STEPS lines up to
a window's end ranks all named codes.

Shape suffixes
    W windows of the streams   L lines (a code in a window)   R rows (a user at the end of a window)
    E windows in the past of a row   C codes   K places   B sequences of a batch   T steps
    D width   V named codes and one row for all others   N targets   S sampled codes
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F

from liveprofile.progress import Progress
from liveprofile.units import DAY_MS
from models.profile.data.prepared import Split
from models.profile.data.training_rows import Streams
from models.profile.device import passes
from models.profile.encoding import concatenated_ranges
from models.profile.evaluation.next_basket import (
    NO_CODE,
    PLACES,
    Baskets,
    Kind,
    NextBaskets,
    basket_scores,
    next_baskets,
    subset,
)

TUNING_ROWS = 2_000
BLOCK_ROWS = 256
HALF_LIVES = (14.0, 30.0, 60.0, 90.0, 180.0, np.inf)  # days
WEIGHTS = (0.0, 3.0, 10.0, 30.0, 100.0)  # of popularity
TIE_BREAK = 1e-9  # popularity of equal counts


class BaselineRanking(NamedTuple):
    """(R, K) codes, best first, and the settings that validation chose."""

    ranking_RK: np.ndarray
    settings: dict[str, Any]


# From streams, kind, split, targets, and whether popularity includes the validation split.
RankBaselines = Callable[
    [Streams, Kind, Split, NextBaskets, bool, Progress], dict[str, BaselineRanking]
]


class OwnCounts(NamedTuple):
    """The user's decayed counts plus a pseudo-count by popularity."""

    half_life_days: float = 60.0  # inf: all windows count alike
    popularity_weight: float = 10.0  # sum of all pseudo-counts; 0: popularity only breaks ties
    per_event: bool = False  # count events, not windows with the code

    def rank(self, baskets: Baskets, windows: np.ndarray, popularity_C: np.ndarray) -> np.ndarray:
        """(R, K) codes after each of `windows`, best first."""
        first_R, end_ms_W = baskets.first_of_user_W[windows], baskets.end_ms_W
        past_E = concatenated_ranges(first_R, windows + 1)
        row_E = np.repeat(np.arange(len(windows)), windows + 1 - first_R)
        age_days_E = (end_ms_W[windows][row_E] - end_ms_W[past_E]) / DAY_MS
        weight_E = np.exp2(-age_days_E / self.half_life_days)
        weight_RW = csr_array((weight_E, (row_E, past_E)), (len(windows), len(end_ms_W)))
        count_L = baskets.events_L if self.per_event else np.ones(len(baskets.code_L))
        lines_WC = csr_array(
            (count_L.astype(float), baskets.code_L, baskets.first_W),
            (len(end_ms_W), baskets.codes),
        )
        counts_RC = csr_array(weight_RW @ lines_WC)
        weight = max(self.popularity_weight, TIE_BREAK) / max(popularity_C.sum(), 1)
        best = []
        for first in range(0, len(windows), BLOCK_ROWS):
            score_BC = counts_RC[first : first + BLOCK_ROWS].toarray() + weight * popularity_C
            found = torch.from_numpy(score_BC).topk(min(PLACES, baskets.codes))
            best.append(np.where(found.values > 0, found.indices, NO_CODE))
        return np.concatenate(best)


def most_popular(popularity_C: np.ndarray, rows: int) -> np.ndarray:
    """(R, K) the most popular codes."""
    best = np.argsort(-popularity_C, kind="stable")[:PLACES]
    return np.tile(np.where(popularity_C[best] > 0, best, NO_CODE), (rows, 1))


def rank_baselines(
    streams: Streams,
    kind: Kind,
    split: Split,
    targets: NextBaskets,
    refreshed: bool,
    on_progress: Progress = lambda stage, done, total: None,
) -> dict[str, BaselineRanking]:
    """The rankings of each baseline model for `targets`.

    refreshed: whether popularity includes the validation split.
    """
    baskets = Baskets.from_streams(streams, kind)
    tuning = subset(next_baskets(streams, kind, split.validation), TUNING_ROWS)
    train_popularity_C = baskets.popularity(split.train)

    def quality(ranking_RK: np.ndarray) -> float:
        return float(basket_scores(tuning, ranking_RK).ndcg_at_10.mean())

    grid = [OwnCounts(*chosen, True) for chosen in itertools.product(HALF_LIVES, WEIGHTS)]
    counts = max(
        grid, key=lambda each: quality(each.rank(baskets, tuning.window_W, train_popularity_C))
    )
    lstm = fit_recurrent(
        nn.LSTM,
        baskets,
        split.train,
        lambda each: quality(each.rank(baskets, tuning.window_W)),
        lambda done, total: on_progress(f"lstm, {kind}", done, total),
    )
    reference = np.union1d(split.train, split.validation) if refreshed else split.train
    windows, popularity_C = targets.window_W, baskets.popularity(reference)
    return {
        "popularity": BaselineRanking(most_popular(popularity_C, len(windows)), {}),
        "own_counts": BaselineRanking(
            counts.rank(baskets, windows, popularity_C), counts._asdict()
        ),
        "lstm": BaselineRanking(lstm.rank(baskets, windows), {"epochs": lstm.epochs}),
    }


WIDTH = 64
NAMES = 16_384
STEPS = 64
BATCH_SEQUENCES = 64
SAMPLED = 256
LEARNING_RATE = 5e-3
EPOCHS = 4
SEED = 20170930


Cell = type[nn.GRU] | type[nn.LSTM]


class RecurrentRanker(nn.Module):
    """Row 0 of the table stands for all codes without a name."""

    def __init__(self, names: int, cell: Cell):
        super().__init__()
        self.table = nn.Embedding(1 + names, WIDTH)
        nn.init.normal_(self.table.weight, std=WIDTH**-0.5)
        self.cell = cell(WIDTH, WIDTH, batch_first=True)
        self.bias = nn.Parameter(torch.zeros(1 + names))

    def forward(self, row_BT: Tensor) -> Tensor:
        """(B, T, D) state after each step."""
        return self.cell(self.table(row_BT))[0]


class Fitted(NamedTuple):
    """A trained network and the code of each of its rows."""

    model: RecurrentRanker
    code_V: np.ndarray  # of the rows from 1 on
    epochs: int

    def rank(self, baskets: Baskets, windows: np.ndarray) -> np.ndarray:
        """(R, K) codes after each of `windows`, best first."""
        row_L = _rows(self.code_V, baskets)[_shuffled(baskets, np.random.default_rng(SEED))]
        best = []
        with torch.inference_mode():
            weight, bias = self.model.table.weight[1:], self.model.bias[1:]
            for h_RD in _states(self.model, baskets, row_L, windows).split(512):
                scores = torch.addmm(bias, h_RD, weight.T)
                best.append(scores.topk(min(PLACES, len(self.code_V))).indices.numpy())
        return self.code_V[np.concatenate(best)]


def fit_recurrent(
    cell: Cell,
    baskets: Baskets,
    train_windows: np.ndarray,
    quality: Callable[[Fitted], float],
    on_epoch: Callable[[int, int], None] = lambda done, total: None,
) -> Fitted:
    """Trains on the lines of `train_windows`; keeps the epoch with the highest `quality`."""
    torch.manual_seed(SEED)
    random = np.random.default_rng(SEED)
    counts_C = np.zeros(baskets.codes)
    in_train_L = np.isin(baskets.window_L, train_windows)
    np.add.at(counts_C, baskets.code_L[in_train_L], 1)
    code_V = np.argsort(-counts_C, kind="stable")[: min(NAMES, int((counts_C > 0).sum()))]
    row_of_L = _rows(code_V, baskets)
    log_q_V = np.log(np.concatenate([[1.0], counts_C[code_V]]) / counts_C.sum())
    share_V = np.exp(log_q_V) / np.exp(log_q_V).sum()
    model = RecurrentRanker(len(code_V), cell)
    steps = -(-int(in_train_L.sum()) // (STEPS * BATCH_SEQUENCES))
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=EPOCHS * (steps + 1), pct_start=0.1
    )
    best_quality, best = -np.inf, None
    for epoch in range(1, EPOCHS + 1):
        order_L = _shuffled(baskets, random)
        row_NT = _sequences(baskets, row_of_L[order_L], in_train_L)
        for index in np.array_split(random.permutation(len(row_NT)), steps):
            negatives = torch.from_numpy(random.choice(len(share_V), SAMPLED, p=share_V))
            row_BT = torch.from_numpy(row_NT[index])
            loss = _loss(model, model(row_BT[:, :-1]), row_BT[:, 1:], negatives, log_q_V)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        fitted = Fitted(model, code_V, epoch)
        if (its_quality := quality(fitted)) > best_quality:
            weights = {name: value.clone() for name, value in model.state_dict().items()}
            best_quality, best = its_quality, (epoch, weights)
        on_epoch(epoch, EPOCHS)
    model.load_state_dict(best[1])
    return Fitted(model, code_V, best[0])


def _loss(
    model: RecurrentRanker,
    h_BTD: Tensor,
    target_BT: Tensor,
    negatives: Tensor,
    log_q_V: np.ndarray,
) -> Tensor:
    """Mean cross-entropy of the named targets among themselves and the sampled codes."""
    h_ND, target_N = h_BTD[target_BT > 0], target_BT[target_BT > 0]
    log_q = torch.from_numpy(log_q_V).float()
    true_N = (h_ND * model.table(target_N)).sum(1) + model.bias[target_N] - log_q[target_N]
    false_NS = torch.addmm(model.bias[negatives] - log_q[negatives], h_ND, model.table(negatives).T)
    false_NS = false_NS.masked_fill(target_N[:, None] == negatives, -torch.inf)
    logits = torch.cat([true_N[:, None], false_NS], 1)
    return F.cross_entropy(logits, torch.zeros(len(target_N), dtype=torch.long))


def _rows(code_V: np.ndarray, baskets: Baskets) -> np.ndarray:
    """(L,) row of each line."""
    row_C = np.zeros(baskets.codes, np.int64)
    row_C[code_V] = 1 + np.arange(len(code_V))
    return row_C[baskets.code_L]


def _shuffled(baskets: Baskets, random: np.random.Generator) -> np.ndarray:
    """(L,) an order of the lines that is random within each window."""
    return np.lexsort((random.random(len(baskets.code_L)), baskets.window_L))


def _sequences(baskets: Baskets, row_L: np.ndarray, in_train_L: np.ndarray) -> np.ndarray:
    """(N, T) rows of each user's training lines in pieces of STEPS; 0: none.

    A piece begins with the last line of the piece before it.
    """
    row_L, user_L = row_L[in_train_L], baskets.user_W[baskets.window_L[in_train_L]]
    piece_L, place_L = np.divmod(np.arange(len(user_L)) - np.searchsorted(user_L, user_L), STEPS)
    number_L = np.cumsum(place_L == 0) - 1
    row_NT = np.zeros((number_L[-1] + 1, 1 + STEPS), np.int64)
    row_NT[number_L, 1 + place_L] = row_L
    continued = np.flatnonzero((place_L == 0) & (piece_L > 0))
    row_NT[number_L[continued], 0] = row_L[continued - 1]
    return row_NT


def _states(
    model: RecurrentRanker, baskets: Baskets, row_L: np.ndarray, windows: np.ndarray
) -> Tensor:
    """(R, D) states after the last STEPS lines up to the end of each of `windows`."""
    end_R = baskets.first_W[windows + 1]
    first_R = np.maximum(end_R - STEPS, baskets.first_W[baskets.first_of_user_W[windows]])
    line_RT = np.minimum(first_R[:, None] + np.arange(STEPS), len(row_L) - 1)
    row_RT = np.where(line_RT < end_R[:, None], row_L[line_RT], 0)
    last_R = np.maximum(end_R - first_R - 1, 0)
    return torch.cat(
        [
            model(torch.from_numpy(row_RT[part]))[torch.arange(len(last_R[part])), last_R[part]]
            for part in passes(len(windows), BLOCK_ROWS)
        ]
    )
