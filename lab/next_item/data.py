"""Item sequences, one per user: the leave-one-out split and ranking metrics.

Protocol: S3-Rec (Zhou et al. 2020, arXiv:2008.07873). A user's last item is the test target, the
one before it the validation target, and all earlier items are training data. A model sees at most
the last 50 items and ranks all items except those in the user's history.

Shape suffixes: U users, N all items of all sequences, B a batch of users, I items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np

from liveprofile.errors import InputError

MAX_LEN = 50
HELD_OUT_ITEMS = 2  # the last item for the test, the one before it for validation
CUTOFFS = (5, 10)
BATCH_USERS = 1_024


class SequenceDataset(NamedTuple):
    """Item codes 0..I-1 of each user, in order of time."""

    items: list[str]  # the name of each code
    item_N: np.ndarray  # int32
    starts_U: np.ndarray  # (U + 1,) int64: user u has item_N[starts_U[u] : starts_U[u + 1]]

    def histories(self, omit_last: int) -> list[np.ndarray]:
        """Every user's items except the last `omit_last`."""
        return [
            self.item_N[start : max(start, end - omit_last)]
            for start, end in pairwise(self.starts_U.tolist())
        ]

    def fingerprint(self) -> str:
        """SHA-256 of the sequences in their order. User names are not part of it."""
        digest = hashlib.sha256(self.starts_U.astype(np.int64))
        digest.update(self.item_N)
        digest.update("\x00".join(self.items).encode())
        return digest.hexdigest()

    def recode(self, items: list[str]) -> SequenceDataset:
        """The same sequences with the codes of `items`. Raises InputError for an unknown item."""
        code = {name: index for index, name in enumerate(items)}
        unknown = [name for name in self.items if name not in code]
        if unknown:
            raise InputError(
                f"{len(unknown)} items are unknown to the model, for example {unknown[0]};"
                " train a new model"
            )
        code_I = np.array([code[name] for name in self.items], np.int32)
        return self._replace(items=items, item_N=code_I[self.item_N])


class HeldOutItems(NamedTuple):
    """One prediction task per user: the history and the item that follows it."""

    histories: list[np.ndarray]
    target_B: np.ndarray


class Scorer(Protocol):
    """A model that scores every item as the next one of a history."""

    def scores(self, histories: list[np.ndarray]) -> np.ndarray:
        """(B, I) scores of the item after each of B histories, higher for likelier items."""


class NextItemMetrics(NamedTuple):
    """Hit rate and normalised discounted cumulative gain among all items."""

    hr_at_5: float
    ndcg_at_5: float
    hr_at_10: float
    ndcg_at_10: float


def training_histories(data: SequenceDataset) -> list[np.ndarray]:
    """The training items of each user who has at least two."""
    return [history for history in data.histories(HELD_OUT_ITEMS) if len(history) > 1]


def held_out_items(data: SequenceDataset, split: str) -> HeldOutItems:
    """The targets of `split` ("validation" or "test"), for users with a training item."""
    target_from_end = 1 if split == "test" else HELD_OUT_ITEMS
    users = np.flatnonzero(np.diff(data.starts_U) > HELD_OUT_ITEMS)
    histories = data.histories(target_from_end)
    ends = data.starts_U[1:]
    return HeldOutItems(
        [histories[user] for user in users], data.item_N[ends[users] - target_from_end]
    )


def sample(held_out: HeldOutItems, most: int, seed: int) -> HeldOutItems:
    """At most `most` random tasks, in their order."""
    tasks = len(held_out.target_B)
    if tasks <= most:
        return held_out
    chosen = np.sort(np.random.default_rng(seed).choice(tasks, most, replace=False))
    return HeldOutItems([held_out.histories[task] for task in chosen], held_out.target_B[chosen])


def batches(held_out: HeldOutItems) -> Iterator[HeldOutItems]:
    """Batches of BATCH_USERS, whose scores fit into memory."""
    for first in range(0, len(held_out.target_B), BATCH_USERS):
        rows = slice(first, first + BATCH_USERS)
        yield HeldOutItems(held_out.histories[rows], held_out.target_B[rows])


def mask_histories(score_BI: np.ndarray, histories: list[np.ndarray]) -> None:
    """Gives each history's items the score -inf."""
    row_N = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    score_BI[row_N, np.concatenate(histories)] = -np.inf


def target_ranks(
    held_out: HeldOutItems, score: Callable[[list[np.ndarray]], np.ndarray]
) -> np.ndarray:
    """(B,) number of items ranked above each target. Ties count as above.

    `score` returns (b, I) floats for b histories, higher for likelier next items; the array is
    modified here. A target that is already in the history gets rank I.
    """
    ranks = []
    for batch in batches(held_out):
        score_BI = score(batch.histories)
        mask_histories(score_BI, batch.histories)
        rows = np.arange(len(batch.target_B))
        target_score_B = score_BI[rows, batch.target_B]
        above_B = (score_BI >= target_score_B[:, None]).sum(1) - 1
        ranks.append(np.where(np.isneginf(target_score_B), score_BI.shape[1], above_B))
    return np.concatenate(ranks)


def ranking_metrics(rank_B: np.ndarray) -> NextItemMetrics:
    """Means over users of the metrics at CUTOFFS; rank 0 is the top of the list."""
    gain_B = 1.0 / np.log2(rank_B + 2.0)
    values = {}
    for cutoff in CUTOFFS:
        hit_B = rank_B < cutoff
        values[f"hr_at_{cutoff}"] = float(hit_B.mean())
        values[f"ndcg_at_{cutoff}"] = float(np.where(hit_B, gain_B, 0.0).mean())
    return NextItemMetrics(**values)
