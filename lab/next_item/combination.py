"""A log-linear combination of a network's score with counts of item pairs.

A pair counts by how far apart its items are, in which direction, and how far back in the history
the first one is. Separate weights let the fit learn that what users take after an item is likelier
next than what they take before it, which the network's symmetric cosine does not tell.

Shape suffixes: B histories, I items, C candidates of a history, F scores that are combined.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F

from lab.next_item.count_models import MAX_DISTANCE, following_counts, weighted_histories
from lab.next_item.data import MAX_LEN, HeldOutItems, Scorer, batches, mask_histories

DISTANCES = {"next": (1, 1), "later": (2, MAX_DISTANCE)}
LAGS = {"last": (0, 0), "recent": (1, 2), "older": (3, MAX_LEN - 1)}  # steps back in the history
LAG_DECAY = 0.9  # weight factor of each step back within LAGS
LOG_SCALE = 30.0  # a score s becomes log(1 + LOG_SCALE * s)
CANDIDATES = 100
FIT_USERS = 25_000  # at most, evenly spaced
PENALTY = 1e-3  # of the squared weights

PAIR_SCORES = [
    f"{direction} {distance}, {lag}"
    for lag in LAGS
    for distance in DISTANCES
    for direction in ("after", "before")
]
SCORES = ["network", *PAIR_SCORES, "popularity", "popularity as last item"]
CANDIDATE_WEIGHTS = np.array([1.0] * (1 + len(PAIR_SCORES)) + [0.0, 0.0], np.float32)


class PairScores(NamedTuple):
    """What counts say about the item after a history, before weighting."""

    following: dict[str, scipy.sparse.csr_matrix]  # of DISTANCES: (I, I), column follows row
    log_popularity_I2: np.ndarray  # of all occurrences, and as a user's last item

    @classmethod
    def from_histories(cls, histories: list[np.ndarray], items: int) -> PairScores:
        popularity_I = np.bincount(np.concatenate(histories), minlength=items)
        last_I = np.bincount([history[-1] for history in histories], minlength=items)
        scale = scipy.sparse.diags(np.maximum(popularity_I, 1) ** -0.5)
        following = {}
        for name, (nearest, farthest) in DISTANCES.items():
            counts_II = following_counts(histories, items, nearest, farthest)
            following[name] = (scale @ counts_II @ scale).tocsr().astype(np.float32)
        log_popularity_I2 = np.log1p(np.stack([popularity_I, last_I], 1)).astype(np.float32)
        return cls(following, log_popularity_I2)

    def of(self, histories: list[np.ndarray]) -> list[scipy.sparse.csr_matrix]:
        """(B, I) scores in the order of PAIR_SCORES."""
        items = len(self.log_popularity_I2)
        scores = []
        for nearest, farthest in LAGS.values():
            history_BI = weighted_histories(histories, items, LAG_DECAY, nearest, farthest)
            for following_II in self.following.values():
                scores += [history_BI @ following_II, history_BI @ following_II.T]
        for score_BI in scores:
            score_BI.data = np.log1p(LOG_SCALE * score_BI.data)
        return scores

    def combine(
        self,
        weight_F: np.ndarray,
        network_BI: np.ndarray,
        pair_scores: list[scipy.sparse.csr_matrix],
    ) -> np.ndarray:
        """(B, I) float32 sum of the scores of one batch with the weights in the order of SCORES."""
        network_weight, *pair_weights = weight_F[: 1 + len(PAIR_SCORES)].tolist()
        pairs_BI = scipy.sparse.csr_matrix(network_BI.shape, dtype=np.float32)
        for weight, score_BI in zip(pair_weights, pair_scores, strict=True):
            pairs_BI = pairs_BI + weight * score_BI
        popularity_I = self.log_popularity_I2 @ weight_F[1 + len(PAIR_SCORES) :]
        return network_weight * network_BI + popularity_I + pairs_BI.toarray()


def fit_weights(network: Scorer, pairs: PairScores, held_out: HeldOutItems) -> np.ndarray:
    """(F,) weights with the least cross-entropy of the targets among the best candidates.

    Candidates are the items with the highest sum by CANDIDATE_WEIGHTS. Users whose target is none
    of them are left out; without any such user the network alone gets a weight.
    """
    users = len(held_out.target_B)
    rows = np.linspace(0, users - 1, min(users, FIT_USERS)).astype(int)
    chosen = HeldOutItems([held_out.histories[row] for row in rows], held_out.target_B[rows])
    parts = [_candidate_scores(network, pairs, batch) for batch in batches(chosen)]
    score_BCF, target_B = (
        torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True)
    )
    weight_F = torch.eye(len(SCORES))[0]
    if not len(target_B):
        return weight_F.numpy()
    weight_F.requires_grad_()
    optimizer = torch.optim.LBFGS([weight_F], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(score_BCF @ weight_F, target_B) + PENALTY * weight_F.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight_F.detach().numpy()


def _candidate_scores(
    network: Scorer, pairs: PairScores, batch: HeldOutItems
) -> tuple[np.ndarray, np.ndarray]:
    """(b, C, F) scores of the candidates, and the target's index, of users whose target is one."""
    network_BI, pair_scores = network.scores(batch.histories), pairs.of(batch.histories)
    total_BI = pairs.combine(CANDIDATE_WEIGHTS, network_BI, pair_scores)
    mask_histories(total_BI, batch.histories)
    # Among fewer items than candidates, those of the history stay and are never the target.
    count = min(CANDIDATES, total_BI.shape[1])
    candidate_BC = np.argpartition(-total_BI, count - 1, axis=1)[:, :count]
    row_B1 = np.arange(len(candidate_BC))[:, None]
    columns = [network_BI[row_B1, candidate_BC]]
    columns += [score_BI.toarray()[row_B1, candidate_BC] for score_BI in pair_scores]
    columns += [popularity_I[candidate_BC] for popularity_I in pairs.log_popularity_I2.T]
    is_target_BC = candidate_BC == batch.target_B[:, None]
    found_B = is_target_BC.any(1)
    return np.stack(columns, 2)[found_B], is_target_BC[found_B].argmax(1)
