"""What the network computes for rows: a forward pass of the trunk and its heads, and the ranker.

Nothing in a pass waits for a GPU: the next pass is encoded while it computes.

Shape suffixes
    B rows (one user and window each)   2B rows before, then rows after their window
    P flat positions (models/profile/encoding.py)   S events of the windows   M a chunk of them
    N positions whose state is read, or candidate items (models/profile/ranker/network.py)
    D model width   C categories   E width of the embedding   K places of a ranking
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.profile.device import to_device
from models.profile.encoding import EncodedBatch, index_in_run
from models.profile.network import BehaviourTransformer, top_k
from models.profile.ranker.memory import MemoryTokens
from models.profile.ranker.network import (
    TRUNK_CANDIDATES,
    Candidates,
    CategoryLogits,
    item_candidates,
    memory_pairs,
)

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
    counts_B, rows, scored = batch.scored_counts_B, len(batch.after_B), len(batch.scored_S)
    row_S = np.repeat(np.arange(rows), counts_B)
    after_B = scored + np.arange(rows)
    before_B = np.where(counts_B > 0, np.cumsum(counts_B) - counts_B, after_B)
    parts = (batch.scored_S, batch.after_B, before_B, row_S, batch.category_S, batch.type_S)
    embedding_rows_P7, index, repeat_counts_BC = (
        to_device(each, device)
        for each in (batch.embedding_rows_P7, np.concatenate(parts), batch.repeat_counts_BC)
    )
    flat_position_N, before, *events = index.split([scored + rows, rows, scored, scored, scored])
    h_ND = model.trunk(embedding_rows_P7, batch.groups, flat_position_N)
    log_p_S = []
    chunk = SURPRISE_CHUNK_POSITIONS if device.type == "cpu" else max(scored, 1)
    chunks = zip(*(each.split(chunk) for each in (h_ND[:scored], *events)), strict=True)
    for h_MD, row_M, category_M, type_M in chunks:
        repeat_counts_MC = repeat_counts_BC.index_select(0, row_M)
        category_MC = model.category_logits(h_MD, repeat_counts_MC)
        log_p_S.append(log_p(category_MC, category_M) + log_p(model.type_logits(h_MD), type_M))
    after_BD = h_ND[scored:]
    return PassResult(
        model.embeddings(torch.cat([h_ND.index_select(0, before), after_BD])),
        after_BD,
        -torch.cat(log_p_S),
        row_S,
    )


def log_p(logits_MC: Tensor, class_M: Tensor) -> Tensor:
    """(M,) log probability of a class of each row."""
    return logits_MC.float().log_softmax(1).gather(1, class_M[:, None]).squeeze(1)


class Ranked(NamedTuple):
    """The ranker's outputs for B rows."""

    categories: CategoryLogits
    candidates: Candidates
    item_N: Tensor  # logits of the candidates


def rank(
    model: BehaviourTransformer,
    tokens: MemoryTokens,
    h_BD: Tensor,
    ranked_items: int,
    fused_BD: Tensor | None = None,
) -> Ranked:
    """Logits of B rows. h_BD: the trunk's states. fused_BD: those with the windows' vectors.

    Vectors change a logit by as much as they change the trunk's, for which they were fitted.
    """
    item, category = memory_pairs(tokens)
    state_BZ = model.ranker.states(h_BD.float(), tokens, category)
    best_BD = h_BD if fused_BD is None else fused_BD
    with torch.no_grad():
        trunk_BC = _trunk_categories(model, h_BD)
        top_BK = top_k(model.item_logits(best_BD, slice(ranked_items)), TRUNK_CANDIDATES)[1]
        candidates = item_candidates(
            item, category, top_BK.cpu().numpy(), model.ranker.item_category.cpu().numpy()
        )
        trunk_N = _trunk_items(model, h_BD, candidates)
    categories = model.ranker.category_logits(state_BZ, category, trunk_BC)
    item_N = model.ranker.item_logits(state_BZ, candidates, item, category, trunk_N)
    if fused_BD is not None:
        more_BC = _trunk_categories(model, fused_BD) - trunk_BC
        categories = categories._replace(named_BC=categories.named_BC + more_BC)
        item_N = item_N + _trunk_items(model, fused_BD, candidates) - trunk_N
    return Ranked(categories, candidates, item_N)


def best_categories(logits: CategoryLogits, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(B, k) indexes of the best categories of each row, and their probabilities."""
    named_BC = logits.named_BC.float()
    further_BX, code_BX = columns(logits.row_M, logits.code_M, logits.further_M, len(named_BC))
    p_BK, index_BK = torch.cat([named_BC, further_BX], 1).softmax(1).topk(k)
    named_BX = np.tile(1 + np.arange(named_BC.shape[1]), (len(named_BC), 1))
    code_BC = np.concatenate([named_BX, code_BX], 1)
    code_BK = np.take_along_axis(code_BC, index_BK.cpu().numpy(), 1)
    return (code_BK - 1).astype(np.int32), p_BK.cpu().numpy()


def best_items(ranked: Ranked, tie_N: np.ndarray, rows: int, k: int) -> np.ndarray:
    """(B, k) indexes of the best candidates. tie_N: far below a logit, orders equal candidates."""
    candidates = ranked.candidates
    logit_N = ranked.item_N.float() + to_device(tie_N, ranked.item_N.device)
    logit_BX, code_BX = columns(candidates.row_N, candidates.code_N, logit_N, rows)
    best_BK = logit_BX.topk(k).indices.cpu().numpy()
    return (np.take_along_axis(code_BX, best_BK, 1) - 1).astype(np.int32)


def _trunk_categories(model: BehaviourTransformer, h_BD: Tensor) -> Tensor:
    """(B, C) the trunk's logits of the named categories, without repeat counts."""
    none_BC = h_BD.new_zeros(1, model.shape.category_rows)
    return model.category_logits(h_BD, none_BC)[:, 1 : 1 + model.shape.categories].float()


def _trunk_items(model: BehaviourTransformer, h_BD: Tensor, candidates: Candidates) -> Tensor:
    """(N,) the trunk's logits; its least one for an item without a name in the model."""
    logit_N = model.item_bias.min().expand(len(candidates.code_N)).float()
    named_M = np.flatnonzero(candidates.code_N <= model.shape.items)
    index_M, item_M, row_M = (
        to_device(each, h_BD.device)
        for each in (named_M, candidates.code_N[named_M] - 1, candidates.row_N[named_M])
    )
    logit_M = model.paired_item_logits(h_BD, item_M, row_M).float()
    return logit_N.index_put((index_M,), logit_M)


def columns(
    row_M: np.ndarray, code_M: np.ndarray, logit_M: Tensor, rows: int
) -> tuple[Tensor, np.ndarray]:
    """Logits and codes of each row side by side. `row_M` ascends; empty places are -inf and 0."""
    count_B = np.bincount(row_M, minlength=rows)
    column_M = index_in_run(count_B)
    shape = (rows, int(count_B.max(initial=0)))
    logit_BX = logit_M.new_full(shape, -torch.inf, dtype=torch.float32)
    code_BX = np.zeros(shape, np.int64)
    code_BX[row_M, column_M] = code_M
    index = (to_device(row_M, logit_M.device), to_device(column_M, logit_M.device))
    return logit_BX.index_put(index, logit_M.float()), code_BX
