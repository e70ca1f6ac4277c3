"""Runs the ranker on memories and states: what training fits and serving stores.

Shape suffixes as in models/profile/ranker/network.py; K places of a ranking.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from liveprofile.wire.histories import Memories
from models.profile.device import passes, to_device
from models.profile.network import BehaviourTransformer, top_k
from models.profile.ranker.memory import MemoryReader, MemoryTokens, MemoryWindows
from models.profile.ranker.network import (
    TRUNK_CANDIDATES,
    Candidates,
    CategoryLogits,
    item_candidates,
    memory_pairs,
)

CHUNK_ROWS = 128  # ranked at a time: their features fit in a core's cache


class Ranked(NamedTuple):
    """The ranker's outputs for B rows."""

    categories: CategoryLogits
    candidates: Candidates
    item_N: Tensor  # logits of the candidates


class RankedRows(NamedTuple):
    """The best of B rows, best first: int32 indexes of names, and float32 probabilities."""

    interests_after: np.ndarray
    interests_after_p: np.ndarray
    next_items: np.ndarray


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


class MemoryRanker:
    """The ranker as serving calls it. Not thread-safe.

    The names of its codes are the model's, then ids that the memories of the latest call hold.
    """

    def __init__(
        self,
        model: BehaviourTransformer,
        items: list[str],
        categories: list[str],
        ranked_items: int,
        places: int,
    ):
        self._model, self._ranked_items = model, ranked_items
        self._k_categories, self._k_items = min(places, len(categories)), min(places, len(items))
        self._reader = MemoryReader(items, categories)
        self.items, self.categories = self._reader.items.names, self._reader.categories.names

    def rank(self, memories: Memories, h_BD: Tensor, fused_BD: Tensor | None = None) -> RankedRows:
        """Ranks B rows. h_BD, fused_BD: as in `rank`."""
        self._reader.make_room()

        def rank_chunk(chunk: slice) -> RankedRows:
            fused = None if fused_BD is None else fused_BD[chunk]
            return self._rank(memories.rows(chunk), h_BD[chunk], fused)

        chunks = [rank_chunk(chunk) for chunk in passes(len(h_BD), CHUNK_ROWS)]
        return RankedRows(*map(np.concatenate, zip(*chunks, strict=True)))

    def windows(self, memories: Memories) -> MemoryWindows:
        """The windows of the memories that `rank` has just ranked."""
        return self._reader.windows(memories)

    def _rank(self, memories: Memories, h_BD: Tensor, fused_BD: Tensor | None) -> RankedRows:
        tokens = self._reader.read(memories)
        ranked = rank(self._model, tokens, h_BD, self._ranked_items, fused_BD)
        tie_N = self._reader.item_tie_breaks(ranked.candidates.code_N)
        return RankedRows(
            *best_categories(ranked.categories, self._k_categories),
            best_items(ranked, tie_N, len(h_BD), self._k_items),
        )


def best_categories(logits: CategoryLogits, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(B, k) indexes of the best categories of each row, and their probabilities."""
    named_BC = logits.named_BC.float()
    further_BX, code_BX = columns(logits.row_M, logits.code_M, logits.further_M, len(named_BC))
    p_BC = torch.cat([named_BC, further_BX], 1).softmax(1)
    p_BK, index_BK = p_BC.topk(k)
    index_BK = index_BK.cpu().numpy()
    named = named_BC.shape[1]
    code_BK = index_BK + 1
    if code_BX.shape[1]:
        further = np.take_along_axis(code_BX, (index_BK - named).clip(min=0), 1)
        code_BK = np.where(index_BK < named, code_BK, further)
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
    column_M = np.arange(len(row_M)) - np.repeat(np.cumsum(count_B) - count_B, count_B)
    shape = (rows, int(count_B.max(initial=0)))
    logit_BX = logit_M.new_full(shape, -torch.inf, dtype=torch.float32)
    code_BX = np.zeros(shape, np.int64)
    code_BX[row_M, column_M] = code_M
    index = (to_device(row_M, logit_M.device), to_device(column_M, logit_M.device))
    return logit_BX.index_put(index, logit_M.float()), code_BX
