"""Ranks what users have next: the ranker's logits, and the trunk's for names of its shop.

Shape suffixes
    B rows (one user and window each)   M pairs of a row and an item or category in memory
    D model width   C categories   K places of a ranking   X pairs of a row side by side
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.profile.device import to_device
from models.profile.encoding import index_in_run
from models.profile.network import BehaviourTransformer
from models.profile.ranker.memory import MemoryReader, MemoryTokens, Pairs
from models.profile.ranker.network import Ranked


def rank_memories(
    model: BehaviourTransformer,
    reader: MemoryReader,
    parts: Iterable[MemoryTokens],
    states: tuple[Tensor, Tensor] | None,
    k: int,
) -> dict[str, Any]:
    """Interests and next items of B rows: those fields of models.profile.inference.Scores.

    parts: of the memories that `reader` indexed last. states: as in `rank`.
    """
    categories, probabilities, items = [], [], []
    first = 0
    for tokens in parts:
        rows = slice(first, first + tokens.rows)
        first = rows.stop
        part_states = None if states is None else (states[0][rows], states[1][rows])
        ranked = rank(model, tokens, part_states)
        categories_BK, p_BK = best_categories(ranked, reader.category_ties, k)
        categories.append(categories_BK - 1)
        probabilities.append(p_BK)
        items.append(best_items(ranked, reader.item_ties, model.shape.items, k) - 1)
    return {
        "interests_after": np.concatenate(categories),
        "interests_after_p": np.concatenate(probabilities),
        "next_items": np.concatenate(items),
    }


def rank(
    model: BehaviourTransformer, tokens: MemoryTokens, states: tuple[Tensor, Tensor] | None
) -> Ranked:
    """Ranks the memories of B rows.

    states: (B, D) the trunk's, and those with the windows' vectors. Vectors change a logit by as
    much as they change the trunk's, for which they were fitted.
    """
    ranked = model.ranker(tokens)
    if states is None:
        return ranked
    item_M, category_M = (
        after_M - before_M
        for before_M, after_M in (
            [_named_logits(model, pairs, names, h_BD) for h_BD in states]
            for pairs, names in ((ranked.item, "items"), (ranked.category, "categories"))
        )
    )
    return ranked._replace(item_M=ranked.item_M + item_M, category_M=ranked.category_M + category_M)


def best_categories(ranked: Ranked, tie: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(B, k) codes of the best categories of each row, 0: no more, and their probabilities.

    tie: by code, far below a logit; orders equal categories.
    """
    rows = len(ranked.other_B)
    logit_BX, code_BX = columns(ranked.category, ranked.category_M, rows, k)
    p_BX = torch.cat([logit_BX, ranked.other_B[:, None].float()], 1).softmax(1)
    index_BK = _best(logit_BX, code_BX, tie, k)
    p_BK = p_BX.gather(1, index_BK).cpu().numpy()
    return np.take_along_axis(code_BX, index_BK.cpu().numpy(), 1), p_BK


def best_items(ranked: Ranked, tie: np.ndarray, names: int, k: int) -> np.ndarray:
    """(B, k) codes of the best items of each row, then of the most frequent ones; 0: no more.

    tie: as in `best_categories`. names: of items that the model has.
    """
    logit_BX, code_BX = columns(ranked.item, ranked.item_M, len(ranked.other_B), k)
    code_BK = np.take_along_axis(code_BX, _best(logit_BX, code_BX, tie, k).cpu().numpy(), 1)
    for row in np.flatnonzero(ranked.has_names_B & (code_BK[:, -1] == 0)):
        own = np.count_nonzero(code_BK[row])
        frequent = np.setdiff1d(np.arange(1, 1 + min(names, k + own)), code_BK[row])[: k - own]
        code_BK[row, own : own + len(frequent)] = frequent
    return code_BK


def _best(logit_BX: Tensor, code_BX: np.ndarray, tie: np.ndarray, k: int) -> Tensor:
    """(B, k) places of the best of each row."""
    return (logit_BX + to_device(tie[code_BX], logit_BX.device)).topk(k).indices


def _named_logits(model: BehaviourTransformer, pairs: Pairs, names: str, h_BD: Tensor) -> Tensor:
    """(M,) the trunk's logits of the pairs' items, or categories; 0 for one without a name."""
    named_M = np.flatnonzero(pairs.code_M <= getattr(model.shape, names))
    index_M, code_M, row_M = (
        to_device(each, h_BD.device)
        for each in (named_M, pairs.code_M[named_M], pairs.row_M[named_M])
    )
    if names == "items":
        logit_M = model.paired_item_logits(h_BD, code_M - 1, row_M)
    else:  # without repeat counts
        none_BC = h_BD.new_zeros(1, model.shape.category_rows)
        logit_M = model.category_logits(h_BD, none_BC)[row_M, code_M]
    return h_BD.new_zeros(len(pairs.code_M)).float().index_put((index_M,), logit_M.float())


def columns(pairs: Pairs, logit_M: Tensor, rows: int, least: int) -> tuple[Tensor, np.ndarray]:
    """(B, X) logits and codes of each row side by side. Empty places are -inf and 0.

    least: X at least.
    """
    count_B = np.bincount(pairs.row_M, minlength=rows)
    column_M = index_in_run(count_B)
    shape = (rows, int(count_B.max(initial=least)))
    logit_BX = logit_M.new_full(shape, -torch.inf, dtype=torch.float32)
    code_BX = np.zeros(shape, np.int64)
    code_BX[pairs.row_M, column_M] = pairs.code_M
    index = (to_device(pairs.row_M, logit_M.device), to_device(column_M, logit_M.device))
    return logit_BX.index_put(index, logit_M.float()), code_BX
