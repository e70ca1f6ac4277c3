"""One forward pass of encoded rows: the trunk, and the heads at the positions that need them.

Nothing here waits for a GPU: the next pass is encoded while it computes.

Shape suffixes
    B rows (one user and window each)   2B rows before, then rows after their window
    P flat positions (models/profile/encoding.py)   N positions whose state is read
    S events of the windows   M a chunk of them   R those of them that are not the first
    D model width   C categories   E width of the embedding
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.profile.device import to_device
from models.profile.encoding import EncodedBatch
from models.profile.network import BehaviourTransformer

# Positions whose surprise is computed at a time on a CPU: their logits fit in a core's cache.
SURPRISE_CHUNK_POSITIONS = 1024


class PassResult(NamedTuple):
    """The outputs of one forward pass of B rows, on the device."""

    embedding_2BE: Tensor
    after_BD: Tensor  # states after the windows
    surprise_S: Tensor
    row_S: np.ndarray  # the row that each event belongs to


def forward(model: BehaviourTransformer, batch: EncodedBatch, device: torch.device) -> PassResult:
    """Runs the network on encoded rows."""
    rows = len(batch.before_B)
    # The state before the window predicts a window's first event, so the first events of all
    # windows come first in S and need no states of their own.
    row_S = np.repeat(np.arange(rows), batch.scored_counts_B)
    is_first_S = np.diff(row_S, prepend=-1) > 0
    order_S = np.argsort(~is_first_S, kind="stable")
    row_S, scored, firsts = row_S[order_S], len(row_S), int(is_first_S.sum())
    positions_N = (batch.before_B, batch.after_B, batch.scored_S[order_S[firsts:]])
    index = np.concatenate([*positions_N, row_S, batch.category_S[order_S], batch.type_S[order_S]])
    embedding_rows_P7, index, repeat_counts_BC = (
        to_device(each, device) for each in (batch.embedding_rows_P7, index, batch.repeat_counts_BC)
    )
    states = len(index) - 3 * scored
    flat_position_N, before_S, category_S, type_S = index.split([states, scored, scored, scored])
    h_ND = model.trunk(embedding_rows_P7, batch.groups, flat_position_N)

    log_p_BC = model.category_logits(h_ND[:rows], repeat_counts_BC).float().log_softmax(1)
    log_p = [log_p_BC[before_S[:firsts], category_S[:firsts]]]
    chunk = SURPRISE_CHUNK_POSITIONS if device.type == "cpu" else max(scored, 1)
    rest = (h_ND[2 * rows :], before_S[firsts:], category_S[firsts:])
    for h_MD, row_M, category_M in zip(*(each.split(chunk) for each in rest), strict=True):
        repeat_counts_MC = repeat_counts_BC.index_select(0, row_M)
        log_p_MC = model.category_logits(h_MD, repeat_counts_MC).float().log_softmax(1)
        log_p.append(log_p_MC.gather(1, category_M[:, None]).squeeze(1))
    state_S = torch.cat([before_S[:firsts], torch.arange(2 * rows, len(h_ND), device=device)])
    type_log_p = model.type_logits(h_ND).float().log_softmax(1)
    return PassResult(
        model.embeddings(h_ND[: 2 * rows]),
        h_ND[rows : 2 * rows],
        -(torch.cat(log_p) + type_log_p[state_S, type_S]),
        row_S,
    )
