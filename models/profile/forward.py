"""One forward pass of encoded rows: the trunk, and the heads at the positions that need them.

Nothing here waits for a GPU: the next pass is encoded while it computes.

Shape suffixes
    B rows (one user and window each)   2B rows before, then rows after their window
    P flat positions (models/profile/encoding.py)   N positions whose state is read
    S events of the windows   M a chunk of them, or items of repeat counts   F, R a subset of M
    D model width   C categories   I items   K best of them   X user features   O output columns
    7 fields of a token (models/profile/encoding.py)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.profile.device import to_device
from models.profile.encoding import EncodedBatch
from models.profile.network import BehaviourTransformer, expected_spend, top_k
from models.profile.user_features import RepeatCounts

TOP_K = 10
# Positions whose surprise is computed at a time on a CPU: their logits fit in a core's cache.
SURPRISE_CHUNK_POSITIONS = 1024


class InferenceBatchResult(NamedTuple):
    """The outputs of one forward pass of B rows, on the device."""

    floats_2BO: Tensor  # embedding, churn, spend
    interests_BK: Tensor  # after the windows, best first; empty if the ranker finds them
    interests_p_BK: Tensor  # their probabilities
    next_items_BK: Tensor  # empty, too
    after_BD: Tensor  # states after the windows
    fused_BD: Tensor  # those with the windows' vectors
    surprise_S: Tensor
    row_S: np.ndarray  # the row that each event belongs to


class ForwardPass:
    """Runs the network on encoded rows.

    ranked_items: of the first items, all are ranked. next_items: the K of the result. Not
    thread-safe.
    """

    def __init__(
        self,
        model: BehaviourTransformer,
        device: torch.device,
        ranked_items: int,
        next_items: int,
    ):
        self._model, self._device = model, device
        self._ranked_items, self._k_items = ranked_items, next_items
        self.surprise_chunk = SURPRISE_CHUNK_POSITIONS if device.type == "cpu" else 1 << 30

    def run(
        self,
        batch: EncodedBatch,
        user_features_2BX: np.ndarray,
        fused_BD: Tensor | None,
        by_memory: bool,
    ) -> InferenceBatchResult:
        """fused_BD: states of the windows' vectors; None: no vectors. by_memory: rank nothing."""
        rows = len(batch.before_B)
        # The state before the window predicts a window's first event, so the first events of all
        # windows come first in S and need no states of their own.
        row_S = np.repeat(np.arange(rows), batch.scored_counts_B)
        is_first_S = np.diff(row_S, prepend=-1) > 0
        order_S = np.argsort(~is_first_S, kind="stable")
        row_S, scored, firsts = row_S[order_S], len(row_S), int(is_first_S.sum())
        index = np.concatenate(
            [
                batch.before_B,
                batch.after_B,
                batch.scored_S[order_S[firsts:]],
                row_S,
                batch.category_S[order_S],
                batch.type_S[order_S],
            ]
        )
        repeat_counts_2BC = np.concatenate(
            [batch.repeat_counts_before_BC, batch.repeat_counts_after_BC]
        )
        embedding_rows_P7, index, repeat_counts_2BC, user_features_2BX = map(
            self._to_device, (batch.embedding_rows_P7, index, repeat_counts_2BC, user_features_2BX)
        )
        states = len(index) - 3 * scored
        flat_position_N, before_S, category_S, type_S = index.split(
            [states, scored, scored, scored]
        )

        h_ND = self._model.trunk(embedding_rows_P7, batch.groups, flat_position_N)
        h_2BD = fused_2BD = h_ND[: 2 * rows]
        if fused_BD is not None:
            fused_2BD = torch.cat([h_2BD[:rows], h_2BD[rows:] + fused_BD])
        log_p_2BC, floats_2BO = _row_outputs(
            self._model, h_2BD, fused_2BD, repeat_counts_2BC, user_features_2BX
        )
        surprise_S = self._surprise(
            h_ND, log_p_2BC, repeat_counts_2BC, before_S, category_S, type_S, firsts
        )
        after_BD, fused_BD = h_2BD[rows:], fused_2BD[rows:]
        if by_memory:
            interests_BK = interests_p_BK = next_items_BK = floats_2BO.new_empty(rows, 0)
        else:
            named = slice(1, 1 + self._model.shape.categories)  # not unknown ones, nor hash buckets
            log_p_BK, interests_BK = top_k(log_p_2BC[rows:, named], TOP_K)
            interests_p_BK = log_p_BK.exp()
            next_items_BK = self._next_items(fused_BD, batch.item_repeat_counts)
        return InferenceBatchResult(
            floats_2BO,
            interests_BK.int(),
            interests_p_BK,
            next_items_BK.int(),
            after_BD,
            fused_BD,
            surprise_S,
            row_S,
        )

    def _surprise(
        self,
        h_ND: Tensor,
        log_p_2BC: Tensor,
        repeat_counts_2BC: Tensor,
        before_S: Tensor,
        category_S: Tensor,
        type_S: Tensor,
        firsts: int,
    ) -> Tensor:
        """(S,) negative log-likelihood of the events, of which the first `firsts` have no state."""
        model, rows_2B = self._model, len(log_p_2BC)
        log_p = [log_p_2BC[before_S[:firsts], category_S[:firsts]]]
        rest = [h_ND[rows_2B:], before_S[firsts:], category_S[firsts:]]
        parts = [column.split(self.surprise_chunk) for column in rest]
        for h_MD, row_M, category_M in zip(*parts, strict=True):
            repeat_counts_MC = repeat_counts_2BC.index_select(0, row_M)
            log_p_MC = model.category_logits(h_MD, repeat_counts_MC).float().log_softmax(1)
            log_p.append(log_p_MC.gather(1, category_M[:, None]).squeeze(1))
        rest_R = torch.arange(rows_2B, len(h_ND), device=self._device)
        state_S = torch.cat([before_S[:firsts], rest_R])
        type_log_p = model.type_logits(h_ND).float().log_softmax(1)
        return -(torch.cat(log_p) + type_log_p[state_S, type_S])

    def _next_items(self, h_BD: Tensor, counts: RepeatCounts) -> Tensor:
        """(B, K) best items, best first, among the ranked items and all items of the user's past.

        `counts` adds the repeat term to the logits. Items past the ranked ones are candidates only
        for users who already had them.
        """
        model, ranked, k = self._model, self._ranked_items, self._k_items
        item_M = counts.code_M - 1
        ranked_F, rare_R = np.flatnonzero(item_M < ranked), np.flatnonzero(item_M >= ranked)
        logit_index_F = counts.row_M[ranked_F] * ranked + item_M[ranked_F]
        # The n-th rare item of each row goes to column n.
        row_R, item_R = counts.row_M[rare_R], item_M[rare_R]
        rare_B = np.bincount(row_R, minlength=len(h_BD))
        column_R = np.arange(len(rare_R)) - np.repeat(np.cumsum(rare_B) - rare_B, rare_B)
        columns = int(rare_B.max())
        row_M, value_M, ranked_F, logit_index_F, rare_R, row_R, item_R, column_R = map(
            self._to_device,
            (
                counts.row_M,
                counts.value_M,
                ranked_F,
                logit_index_F,
                rare_R,
                row_R,
                item_R,
                column_R,
            ),
        )
        repeat_term_M = model.repeat_weights(h_BD)[1].float().squeeze(1)[row_M] * value_M
        logits_BI = model.item_logits(h_BD, slice(ranked)).float()
        logits_BI.view(-1).index_add_(0, logit_index_F, repeat_term_M[ranked_F])
        logit_BK, item_BK = top_k(logits_BI, k)
        shape = (len(h_BD), columns)
        rare_logits = h_BD.new_full(shape, -torch.inf, dtype=torch.float32)
        rare_logits[row_R, column_R] = (
            model.paired_item_logits(h_BD, item_R, row_R).float() + repeat_term_M[rare_R]
        )
        rare_items = item_BK.new_zeros(shape)
        rare_items[row_R, column_R] = item_R
        best_BK = torch.cat([logit_BK, rare_logits], 1).topk(k).indices
        return torch.cat([item_BK, rare_items], 1).gather(1, best_BK)

    def _to_device(self, array: np.ndarray) -> Tensor:
        return to_device(array, self._device)


def _row_outputs(
    model: BehaviourTransformer,
    h_ND: Tensor,
    fused_ND: Tensor,
    repeat_counts_NC: Tensor,
    user_features_NX: Tensor,
) -> tuple[Tensor, Tensor]:
    """What each of N states says of its row, whatever the others are.

    Log-probabilities of categories, and floats: embedding, churn, spend. fused_ND: the states with
    the windows' vectors.
    """
    log_p_NC = model.category_logits(fused_ND, repeat_counts_NC).float().log_softmax(1)
    churn_logit_N, log_mean_N, log_std_N = model.values(h_ND, user_features_NX)
    churn_N = churn_logit_N.sigmoid()
    spend_N = expected_spend(churn_N, log_mean_N, log_std_N)
    return log_p_NC, torch.cat([model.embeddings(h_ND), churn_N[:, None], spend_N[:, None]], 1)
