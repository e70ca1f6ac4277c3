"""Scores the next events inside windows, given the events before them.

This depends on the order of events, so it compares variants of one model only;
models/profile/evaluation/next_basket.py measures what is served.

Shape suffixes: N targets of a batch, M of them with a named item (in results: all events), W
windows, B windows of a batch, C classes, I named items, D model width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from liveprofile.progress import Progress
from models.profile.data.examples import Corpus, run_trunk
from models.profile.data.moments import inputs_at
from models.profile.network import BehaviourTransformer, log_p
from models.profile.recipes import Recipe
from models.profile.training.losses import ndcg_at_10, ranks

NOT_RANKED = np.iinfo(np.int64).max
RANKED_ITEMS = 4096  # the most frequent ones are candidates


class NextEventScores(NamedTuple):
    """The model's predictions of M events inside windows."""

    source_M: np.ndarray  # the event's token in the corpus
    category_rank_M: np.ndarray  # number of likelier classes
    item_rank_M: np.ndarray  # NOT_RANKED for an item that is not a candidate
    category_nll_M: np.ndarray  # nats
    type_nll_M: np.ndarray


def predict_churn_spend(
    model: BehaviourTransformer, corpus: Corpus, windows: np.ndarray, recipe: Recipe
) -> tuple[np.ndarray, np.ndarray]:
    """(W,) probability of churn and (W,) expected spend at the ends of `windows`."""
    input_WX = inputs_at(corpus, recipe, windows, corpus.streams.end_ms_W[windows])
    with torch.inference_mode():
        churn_W, spend_W, _ = model.value_curves(torch.from_numpy(input_WX))[:, 0, :, 0].unbind(1)
    return churn_W.numpy(), spend_W.numpy()


def score_next_events(
    model: BehaviourTransformer,
    corpus: Corpus,
    windows: np.ndarray,
    recipe: Recipe,
    on_progress: Progress = lambda *_: None,
) -> NextEventScores:
    """Scores every event of `windows` that serving would see as part of the window."""
    results: list[NextEventScores] = []
    shape = model.shape
    done = 0
    for output in run_trunk(model, corpus, windows, recipe):
        sequences, batch = output.sequences, output.batch
        target_N = np.flatnonzero(sequences.scored_N)
        h_ND = output.h_PD[torch.from_numpy(batch.flat_position_N[target_N] - 1)]
        row_N = torch.from_numpy(sequences.row_N[target_N])
        rows = len(output.windows)
        category_count_BC = torch.from_numpy(batch.category_repeat_counts.toarray())
        category_NC = model.category_logits(h_ND, category_count_BC[row_N])
        item_count_BI = torch.from_numpy(batch.item_repeat_counts.toarray()[:, 1 : 1 + shape.items])
        item_N = batch.item_N[target_N]
        named = np.flatnonzero((item_N > 0) & (item_N <= shape.items))
        item_count_MI = item_count_BI[row_N[named]]
        item_rank_N = np.full(len(target_N), NOT_RANKED)
        item_rank_N[named] = _candidate_ranks(
            model, h_ND[named], item_count_MI, item_N[named] - 1, RANKED_ITEMS
        )
        category_N = batch.category_N[target_N]
        results.append(
            NextEventScores(
                sequences.source_N[target_N],
                _ranks(category_NC, category_N),
                item_rank_N,
                _nll(category_NC, category_N),
                _nll(model.type_logits(h_ND), batch.type_N[target_N]),
            )
        )
        done += rows
        on_progress("evaluate", done, len(windows))
    return NextEventScores(*(np.concatenate(column) for column in zip(*results, strict=True)))


def _candidate_ranks(
    model: BehaviourTransformer,
    h_MD: Tensor,
    item_count_MI: Tensor,
    item_M: np.ndarray,
    ranked_items: int,
) -> np.ndarray:
    """(M,) rank of each item among the candidates; NOT_RANKED for items that are none.

    The candidates are the first `ranked_items` items and the items of the user's history.
    """
    logits_MI = torch.addcmul(model.item_logits(h_MD), model.repeat_weights(h_MD)[1], item_count_MI)
    tail = slice(ranked_items, None)
    logits_MI[:, tail].masked_fill_(item_count_MI[:, tail] == 0, -math.inf)
    rank_M = _ranks(logits_MI, item_M)
    logit_M1 = logits_MI.gather(1, torch.from_numpy(item_M).long()[:, None])
    rank_M[logit_M1.squeeze(1).isinf().numpy()] = NOT_RANKED
    return rank_M


def gains(rank_N: np.ndarray) -> np.ndarray:
    """(N,) NDCG@10 of one relevant class at each rank."""
    return ndcg_at_10(torch.from_numpy(rank_N)).numpy()


def _nll(logits_NC: Tensor, target_N: np.ndarray) -> np.ndarray:
    return -log_p(logits_NC, torch.from_numpy(target_N.astype(np.int64))).numpy()


def _ranks(logits_NC: Tensor, target_N: np.ndarray) -> np.ndarray:
    return ranks(logits_NC, torch.from_numpy(target_N.astype(np.int64))).numpy()
