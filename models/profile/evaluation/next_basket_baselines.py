"""Baseline models of next baskets, tuned on validation like the user model.

Popularity, the user's own counts and an LSTM. Popularity comes from the training windows, or from
training and validation when the test split is ranked.

The LSTM (Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; on sessions: GRU4Rec,
Hidasi et al. 2016, arXiv:1511.06939) reads the codes of the last STEPS lines up to a window's end.
Its state there ranks all named codes; the loss is the cross-entropy with the next window's set.

Shape suffixes
    W windows of the streams   L lines (a code in a window)   R rows (a user at the end of a window)
    E windows in the past of a row   C codes   K places   B rows of a batch   T steps   D width
    V named codes   M members of the next windows
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

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
# Of the LSTM.
WIDTH, STEPS, NAMES = 64, 64, 16_384
BATCH_ROWS, LEARNING_RATE, EPOCHS = 64, 5e-3, 4
SEED = 20170930


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
        next_baskets(streams, kind, split.train),
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


Cell = type[nn.GRU] | type[nn.LSTM]


class RecurrentRanker(nn.Module):
    """Row 0 of the table stands for all codes without a name, which are no candidates."""

    def __init__(self, names: int, cell: Cell):
        super().__init__()
        self.table = nn.Embedding(1 + names, WIDTH)
        nn.init.normal_(self.table.weight, std=WIDTH**-0.5)
        self.cell = cell(WIDTH, WIDTH, batch_first=True)
        self.bias = nn.Parameter(torch.zeros(names))

    def forward(self, row_BT: Tensor, last_B: Tensor) -> Tensor:
        """(B, V) logits of the named codes after the last step of each sequence."""
        h_BTD = self.cell(self.table(row_BT))[0]
        h_BD = h_BTD[torch.arange(len(row_BT)), last_B]
        return torch.addmm(self.bias, h_BD, self.table.weight[1:].T)


class Fitted(NamedTuple):
    """A trained network and the code of each of its names."""

    model: RecurrentRanker
    code_V: np.ndarray
    epochs: int

    def rank(self, baskets: Baskets, windows: np.ndarray) -> np.ndarray:
        """(R, K) codes after each of `windows`, best first."""
        row_L = _rows(self.code_V, baskets.codes)[baskets.code_L]
        places = min(PLACES, len(self.code_V))
        with torch.inference_mode():
            best = [
                self.model(*_sequences(baskets, row_L, windows[part])).topk(places).indices.numpy()
                for part in passes(len(windows), BLOCK_ROWS)
            ]
        return self.code_V[np.concatenate(best)]


def fit_recurrent(
    cell: Cell,
    baskets: Baskets,
    targets: NextBaskets,
    quality: Callable[[Fitted], float],
    on_epoch: Callable[[int, int], None] = lambda done, total: None,
) -> Fitted:
    """Trains on `targets`; keeps the epoch with the highest `quality`."""
    torch.manual_seed(SEED)
    random, rows = np.random.default_rng(SEED), len(targets.window_W)
    counts_C = np.bincount(targets.code_M, minlength=baskets.codes)
    code_V = np.argsort(-counts_C, kind="stable")[: min(NAMES, np.count_nonzero(counts_C))]
    row_C = _rows(code_V, baskets.codes)
    member_M = np.ones(len(targets.row_M), np.float32), (targets.row_M, row_C[targets.code_M])
    member_RV = csr_array(member_M, (rows, 1 + len(code_V)))[:, 1:]
    model = RecurrentRanker(len(code_V), cell)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    best_quality, best = -np.inf, (0, model.state_dict())
    row_L = row_C[baskets.code_L]
    for epoch in range(1, EPOCHS + 1):
        shuffled = random.permutation(rows)
        for part in passes(rows, BATCH_ROWS):
            batch = shuffled[part]
            inputs = _sequences(baskets, row_L, targets.window_W[batch])
            member_BV = torch.from_numpy(member_RV[batch].toarray())
            log_p_B = (model(*inputs).log_softmax(1) * member_BV).sum(1)
            optimizer.zero_grad()
            (-log_p_B / member_BV.sum(1).clamp(min=1)).mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        if (its_quality := quality(Fitted(model, code_V, epoch))) > best_quality:
            weights = {name: value.clone() for name, value in model.state_dict().items()}
            best_quality, best = its_quality, (epoch, weights)
        on_epoch(epoch, EPOCHS)
    model.load_state_dict(best[1])
    return Fitted(model, code_V, best[0])


def _rows(code_V: np.ndarray, codes: int) -> np.ndarray:
    """(C,) row of each code."""
    row_C = np.zeros(codes, np.int64)
    row_C[code_V] = 1 + np.arange(len(code_V))
    return row_C


def _sequences(baskets: Baskets, row_L: np.ndarray, windows: np.ndarray) -> tuple[Tensor, Tensor]:
    """(B, T) rows of the last STEPS lines up to the end of each window, and (B,) the last step."""
    end_B = baskets.first_W[windows + 1]
    first_B = np.maximum(end_B - STEPS, baskets.first_W[baskets.first_of_user_W[windows]])
    line_BT = first_B[:, None] + np.arange(STEPS)
    known_BT = line_BT < end_B[:, None]
    row_BT = np.where(known_BT, row_L[np.minimum(line_BT, len(row_L) - 1)], 0)
    return torch.from_numpy(row_BT), torch.from_numpy(np.maximum(end_B - first_B - 1, 0))
