"""Losses of the ranker: candidates of a row against the set of what its user has next.

Shape suffixes
    B rows   N candidates of all rows   X the best candidates of a row   K places that count
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.profile.ranking import columns

PLACES = 10
COMPARED = 100  # candidates of a row that the loss of NDCG compares, the best ones


def set_loss(logit_N: Tensor, row_N: np.ndarray, positive_N: np.ndarray, rows: int) -> Tensor:
    """Mean over the rows of the cross-entropy with the uniform distribution over their positives.

    Rows without a positive count 0.
    """
    row = torch.from_numpy(row_N)
    largest_B = torch.full((rows,), -torch.inf).scatter_reduce(0, row, logit_N.detach(), "amax")
    sum_B = torch.zeros(rows).index_add(0, row, (logit_N - largest_B[row]).exp())
    log_p_N = logit_N - (sum_B.log() + largest_B)[row]
    positive = torch.from_numpy(positive_N.astype(np.float32))
    positives_B = torch.zeros(rows).index_add(0, row, positive)
    return -(log_p_N * positive / positives_B.clamp(min=1)[row]).sum() / rows


def ndcg_loss(
    logit_N: Tensor, row_N: np.ndarray, positive_N: np.ndarray, size_B: np.ndarray
) -> Tensor:
    """Mean over the rows of the logistic loss of each pair, weighted by its share of NDCG@10.

    The weight of a positive and a negative is by how much NDCG@10 changes if both swap places
    (LambdaRank: Burges 2010, MSR-TR-2010-82; as a loss: Wang et al. 2018,
    doi:10.1145/3269206.3271784). size_B: members of each row's set, candidates or not.
    """
    logit_BX, positive_BX = _best(logit_N, row_N, positive_N, len(size_B))
    discount_X = _discounts(logit_BX.shape[1])
    places = min(PLACES, logit_BX.shape[1])
    weight_KX = (discount_X[:places, None] - discount_X).triu(1)
    gain_BKX = positive_BX[:, :places, None] - positive_BX[:, None]
    margin_BKX = (logit_BX[:, :places, None] - logit_BX[:, None]) * gain_BKX
    loss_BKX = F.softplus(-margin_BKX) * gain_BKX.abs() * weight_KX
    return (loss_BKX.sum((1, 2)) / _ideal(size_B)).mean()


def ndcg_at_10(
    logit_N: Tensor, row_N: np.ndarray, positive_N: np.ndarray, size_B: np.ndarray
) -> Tensor:
    """(B,) NDCG@10 of each row; 0 for an empty set."""
    logit_BX, positive_BX = _best(logit_N, row_N, positive_N, len(size_B))
    return positive_BX @ _discounts(logit_BX.shape[1]) / _ideal(size_B)


def _best(
    logit_N: Tensor, row_N: np.ndarray, positive_N: np.ndarray, rows: int
) -> tuple[Tensor, Tensor]:
    """(B, X) logits, largest first, and 1 for each positive. Empty places are far below."""
    order_N = np.argsort(row_N, kind="stable")
    logit_N = logit_N[torch.from_numpy(order_N)]
    logit_BX, is_positive_BX = columns(row_N[order_N], positive_N[order_N], logit_N, rows)
    best = logit_BX.topk(min(COMPARED, logit_BX.shape[1]))
    positive_BX = torch.from_numpy(is_positive_BX.astype(np.float32)).gather(1, best.indices)
    return best.values.clamp(min=-1e4), positive_BX


def _discounts(places: int) -> Tensor:
    """(X,) gain of a hit at each place."""
    place_X = torch.arange(places)
    return torch.where(place_X < PLACES, 1 / torch.log2(place_X + 2.0), 0.0)


def _ideal(size_B: np.ndarray) -> Tensor:
    """(B,) the gain of the best ranking."""
    return _discounts(PLACES).cumsum(0)[torch.from_numpy(size_B).clamp(1, PLACES) - 1]
