"""Metrics of a user model during training, on held-out windows.

Next events are scored inside each window, given the events before them. This depends on the order
of events, so it compares variants of one model only; models/profile/evaluation/next_basket.py
measures what is served. Churn and spend are scored at each window's end.

Shape suffixes: N targets of a batch, M of them with a named item (in results: all events), W
windows, B windows of a batch, C classes, I named items, D model width, X inputs of the curves.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor

from liveprofile.progress import Progress
from models.profile.data.batched_inference import run_trunk
from models.profile.data.examples import Corpus
from models.profile.data.prepared import Split
from models.profile.data.training_rows import Streams
from models.profile.data.value_examples import inputs_at, validation_windows
from models.profile.encoding import concatenated_ranges
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe

SplitName = Literal["validation", "test"]
SURPRISE_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.5": 0.995, "p99.9": 0.999}
NOT_RANKED = np.iinfo(np.int64).max


class NextEventScores(NamedTuple):
    """The model's predictions of M events inside windows."""

    source_M: np.ndarray  # the event's token in the corpus
    category_rank_M: np.ndarray  # number of likelier classes
    item_rank_M: np.ndarray  # NOT_RANKED for an item that is not a candidate
    category_nll_M: np.ndarray  # nats
    type_nll_M: np.ndarray


def evaluate(
    model: BehaviourTransformer,
    corpus: Corpus,
    split: Split,
    recipe: Recipe,
    on_progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """The metrics next_event, churn and spend on validation: the progress of a training.

    The next category has no ranking metrics if no event has one. Churn and spend are None if there
    is only one class. models/profile/evaluation/checkpoint_report.py measures what is served.
    """
    report: dict[str, Any] = {
        "next_event": _next_event_metrics(model, corpus, split, recipe, on_progress),
        "churn": None,
        "spend": None,
    }
    windows = validation_windows(corpus, split)
    churned_W, spend_W = corpus.purchases_W[windows] == 0, corpus.spend_W[windows]
    if churned_W.any() and not churned_W.all():
        churn_W, expected_W = predict_churn_spend(model, corpus, windows, recipe)
        report["churn"] = {
            "windows": len(windows),
            "share": _round(churned_W.mean()),
            "mean_predicted": _round(churn_W.mean()),
            "model": {"auc": _round(roc_auc_score(churned_W, churn_W))},
        }
        report["spend"] = {
            "mean": _round(spend_W.mean()),
            "mean_predicted": _round(expected_W.mean()),
            "model": {
                "mae": _round(np.abs(expected_W - spend_W).mean()),
                "spearman": _round(spearmanr(expected_W, spend_W).statistic),
            },
        }
    return report


def predict_churn_spend(
    model: BehaviourTransformer, corpus: Corpus, windows: np.ndarray, recipe: Recipe
) -> tuple[np.ndarray, np.ndarray]:
    """(W,) probability of churn and (W,) expected spend at the ends of `windows`."""
    input_WX = inputs_at(corpus, recipe, windows, corpus.streams.end_ms_W[windows])
    with torch.inference_mode():
        churn_W, spend_W, _ = model.value_curves(torch.from_numpy(input_WX))[:, 0, :, 0].unbind(1)
    return churn_W.numpy(), spend_W.numpy()


def surprise_quantiles(
    model: BehaviourTransformer, corpus: Corpus, windows: np.ndarray, recipe: Recipe
) -> dict[str, float]:
    """Quantiles of the windows' mean nats per event.

    Uses the windows with enough events for the surprise rule, or all windows if there are none.
    """
    events = score_next_events(model, corpus, windows, recipe)
    window_M = np.searchsorted(corpus.streams.last_W, events.source_M, side="right")
    _, index_M, count_W = np.unique(window_M, return_inverse=True, return_counts=True)
    surprise_W = np.bincount(index_M, events.category_nll_M + events.type_nll_M) / count_W
    eligible = surprise_W[count_W >= recipe.surprise_min_events]
    if not len(eligible):
        eligible = surprise_W
    return {
        name: _round(np.quantile(eligible, share)) for name, share in SURPRISE_QUANTILES.items()
    }


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
        category_count_BC = torch.from_numpy(
            batch.category_repeat_counts.dense(rows, shape.category_rows)
        )
        category_NC = model.category_logits(h_ND, category_count_BC[row_N])
        item_count_BI = torch.from_numpy(
            batch.item_repeat_counts.dense(rows, 1 + shape.items)[:, 1:]
        )
        item_N = batch.item_N[target_N]
        named = np.flatnonzero((item_N > 0) & (item_N <= shape.items))
        item_count_MI = item_count_BI[row_N[named]]
        item_rank_N = np.full(len(target_N), NOT_RANKED)
        item_rank_N[named] = _candidate_ranks(
            model, h_ND[named], item_count_MI, item_N[named] - 1, recipe.ranked_items
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


def _next_event_metrics(
    model: BehaviourTransformer, corpus: Corpus, split: Split, recipe: Recipe, on_progress: Progress
) -> dict[str, Any]:
    streams = corpus.streams
    events = score_next_events(model, corpus, split.validation, recipe, on_progress)
    metrics: dict[str, Any] = {"events": len(events.source_M)}
    for target, names, class_N, rank_M in (
        ("category", streams.categories, streams.category_N, events.category_rank_M),
        ("item", streams.items, streams.item_N, events.item_rank_M),
    ):
        has_id_M = np.array([bool(name) for name in names])[class_N[events.source_M]]
        if not has_id_M.any():  # data without categories
            metrics[target] = {"model": {}}
            continue
        popular_C = _popularity_ranks(streams, class_N, split.train)
        metrics[target] = {
            name: {
                "accuracy": _round((rank_N == 0).mean()),
                "ndcg_at_10": _round(gains(rank_N).mean()),
            }
            for name, rank_N in (
                ("model", rank_M[has_id_M]),
                ("popularity", popular_C[class_N[events.source_M[has_id_M]]]),
            )
        }
    metrics["category"]["model"]["nll"] = _round(events.category_nll_M.mean())
    metrics["item"]["candidates"] = _round((events.item_rank_M != NOT_RANKED).mean())
    metrics["type"] = {"model": {"nll": _round(events.type_nll_M.mean())}}
    return metrics


def _popularity_ranks(streams: Streams, class_N: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """(C,) rank of each class by its events in `windows`, 0 the most frequent."""
    token_N = concatenated_ranges(streams.first_W[windows], streams.last_W[windows])
    count_C = np.bincount(class_N[token_N], minlength=int(class_N.max()) + 1)
    return np.argsort(np.argsort(-count_C, kind="stable"), kind="stable")


def ranks(logits_NC: Tensor, target_N: Tensor) -> Tensor:
    """(N,) number of classes above the true one, and half of those that tie: bfloat16 has many."""
    truth_N1 = logits_NC.gather(1, target_N[:, None])
    ties_N = (logits_NC == truth_N1).sum(1) - 1
    return (logits_NC > truth_N1).sum(1) + ties_N // 2


def ndcg_at_10(rank_N: Tensor) -> Tensor:
    """(N,) NDCG@10 with one relevant class (Jarvelin and Kekalainen 2002). Rank 0 is the best."""
    return torch.where(rank_N < 10, 1 / torch.log2(rank_N.clamp(max=10) + 2.0), 0.0)


def gains(rank_N: np.ndarray) -> np.ndarray:
    """(N,) NDCG@10 of one relevant class at each rank."""
    return ndcg_at_10(torch.from_numpy(rank_N)).numpy()


def _nll(logits_NC: Tensor, target_N: np.ndarray) -> np.ndarray:
    target_N1 = torch.from_numpy(target_N.astype(np.int64))[:, None]
    return -logits_NC.float().log_softmax(1).gather(1, target_N1).squeeze(1).numpy()


def _ranks(logits_NC: Tensor, target_N: np.ndarray) -> np.ndarray:
    return ranks(logits_NC, torch.from_numpy(target_N.astype(np.int64))).numpy()


def _round(value: float) -> float:
    return round(float(value), 4)
