"""What the network computes for rows: a forward pass of the trunk and its heads, and the ranker.

Nothing in a pass waits for a GPU: the next pass is encoded while it computes.

Shape suffixes
    B rows (one user and window each)   2B rows before, then rows after their window
    P flat positions (models/profile/encoding.py)   S events of the windows   M a chunk of them
    N positions whose state is read   D model width   C categories   E width of the embedding
    M also pairs of a row and an item or category in memory   K places of a ranking
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.profile.device import to_device
from models.profile.encoding import EncodedBatch, index_in_run
from models.profile.network import BehaviourTransformer
from models.profile.ranker.memory import MemoryTokens, Pairs
from models.profile.ranker.network import Ranked

# Positions whose surprise is computed at a time on a CPU: their logits fit in a core's cache.
SURPRISE_CHUNK_POSITIONS = 1024


class PassResult(NamedTuple):
    """The outputs of one forward pass of B rows, on the device."""

    embedding_2BE: Tensor
    after_BD: Tensor  # states after the windows
    surprise_S: Tensor  # of the events that can surprise
    row_S: np.ndarray  # the row that each of them belongs to


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
    can_surprise_S = can_surprise(model, batch.category_S)
    return PassResult(
        model.embeddings(torch.cat([h_ND.index_select(0, before), after_BD])),
        after_BD,
        -torch.cat(log_p_S)[to_device(can_surprise_S, device)],
        row_S[can_surprise_S],
    )


def can_surprise(model: BehaviourTransformer, category_N: np.ndarray) -> np.ndarray:
    """(N,) bool: whether the model has a name for the category; all if it has no names.

    Another shop's categories say nothing against what the model has learned.
    """
    named = model.shape.categories
    return (category_N > 0) & (category_N <= named) if named else np.ones(len(category_N), bool)


def log_p(logits_MC: Tensor, class_M: Tensor) -> Tensor:
    """(M,) log probability of a class of each row."""
    return logits_MC.float().log_softmax(1).gather(1, class_M[:, None]).squeeze(1)


def rank(
    model: BehaviourTransformer,
    tokens: MemoryTokens,
    states: tuple[Tensor, Tensor] | None = None,
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
