"""Metrics of a user model during training, on held-out windows.

Next events are scored inside each window, given the events before them. This depends on the order
of events, so it compares variants of one model only; models/profile/evaluation/next_basket.py
measures what is served. Churn and spend are scored at each window's end. The user's own frequencies
are tuned on validation.

Shape suffixes: N targets of a batch, M of them with a named item (in results: all events), W
windows, B windows of a batch, C classes, I named items, D model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from liveprofile.progress import Progress
from models.profile.data.batched_inference import run_trunk
from models.profile.data.churn_spend_samples import samples, validation_windows
from models.profile.data.examples import Corpus
from models.profile.encoding import concatenated_ranges
from models.profile.evaluation.baseline_models import user_frequency
from models.profile.evaluation.intervals import Interval, UserBootstrap
from models.profile.network import BehaviourTransformer, expected_spend
from models.profile.recipes import Recipe

if TYPE_CHECKING:
    from models.profile.data.prepared import Split

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


class ChurnSpendPredictions(NamedTuple):
    """The model's predictions at the ends of W windows."""

    churn_W: np.ndarray  # probability
    spend_W: np.ndarray  # currency


def evaluate(
    model: BehaviourTransformer,
    corpus: Corpus,
    split: Split,
    recipe: Recipe,
    split_name: SplitName,
    on_progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """The metrics next_event, churn and spend on one split: the progress of a training.

    The next category has no ranking metrics if no event has one.

    models/profile/evaluation/checkpoint_report.py measures what is served.
    """
    windows = getattr(split, split_name)
    if split_name == "validation":
        labelled_windows = validation_windows(corpus, split)
    else:
        labelled_windows = windows[corpus.has_known_labels(windows, split.test_until_ms)]
    return {
        "next_event": _next_event_metrics(model, corpus, split, recipe, split_name, on_progress),
        **_churn_spend_metrics(model, corpus, recipe, labelled_windows),
    }


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
                _rank(category_NC, category_N),
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
    h_MD: torch.Tensor,
    item_count_MI: torch.Tensor,
    item_M: np.ndarray,
    ranked_items: int,
) -> np.ndarray:
    """(M,) rank of each item among the candidates; NOT_RANKED for items that are none.

    The candidates are those of models.profile.inference: the first `ranked_items` items and the
    items of the user's history.
    """
    logits_MI = torch.addcmul(model.item_logits(h_MD), model.repeat_weights(h_MD)[1], item_count_MI)
    tail = slice(ranked_items, None)
    logits_MI[:, tail].masked_fill_(item_count_MI[:, tail] == 0, -math.inf)
    rank_M = _rank(logits_MI, item_M)
    logit_M1 = logits_MI.gather(1, torch.from_numpy(item_M).long()[:, None])
    rank_M[logit_M1.squeeze(1).isinf().numpy()] = NOT_RANKED
    return rank_M


def predict_churn_spend(
    model: BehaviourTransformer,
    corpus: Corpus,
    windows: np.ndarray,
    recipe: Recipe,
) -> ChurnSpendPredictions:
    """Churn and spend at the ends of `windows`, which must ascend."""
    inputs = samples(model, corpus, recipe, windows, corpus.streams.end_ms_W[windows])
    with torch.inference_mode():
        churn_W, log_mean_W, log_std_W = model.values(inputs.state_MD, inputs.user_features_MX)
        churn_W = churn_W.sigmoid()
        spend_W = expected_spend(churn_W, log_mean_W, log_std_W)
    return ChurnSpendPredictions(churn_W.numpy(), spend_W.numpy())


def _next_event_metrics(
    model: BehaviourTransformer,
    corpus: Corpus,
    split: Split,
    recipe: Recipe,
    split_name: SplitName,
    on_progress: Progress,
) -> dict[str, Any]:
    streams = corpus.streams
    events = score_next_events(model, corpus, getattr(split, split_name), recipe, on_progress)
    metrics: dict[str, Any] = {"events": len(events.source_M)}
    for target, names, class_N, rank_M in (
        ("category", streams.categories, streams.category_N, events.category_rank_M),
        ("item", streams.items, streams.item_N, events.item_rank_M),
    ):
        has_id_M = np.array([bool(name) for name in names])[class_N[events.source_M]]
        if not has_id_M.any():  # data without categories
            metrics[target] = {"model": {}}
            continue
        metrics[target] = _compare_with_frequencies(
            corpus,
            split,
            split_name,
            class_N,
            len(names),
            events.source_M[has_id_M],
            rank_M[has_id_M],
            lambda done, total, target=target: on_progress(
                f"user frequency, {target}", done, total
            ),
        )
    metrics["category"]["model"]["nll"] = _round(events.category_nll_M.mean())
    metrics["item"]["candidates"] = _round((events.item_rank_M != NOT_RANKED).mean())
    metrics["type"] = {"model": {"nll": _round(events.type_nll_M.mean())}}
    return metrics


def _compare_with_frequencies(
    corpus: Corpus,
    split: Split,
    split_name: SplitName,
    class_N: np.ndarray,
    classes: int,
    target_M: np.ndarray,
    rank_M: np.ndarray,
    on_progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Ranking metrics of the model, of the user's own frequencies and of popularity.

    `class_N` is the class of each token, `target_M` the tokens and `rank_M` the model's ranks.
    """
    streams = corpus.streams
    popularity_C = user_frequency.popularity(streams, class_N, classes, split.train)
    validation_M = concatenated_ranges(
        streams.first_W[split.validation], streams.last_W[split.validation]
    )
    tuning_M = target_M if split_name == "validation" else validation_M
    settings, frequency_rank_M = user_frequency.choose_settings(
        streams, class_N, popularity_C, tuning_M, on_progress
    )
    if split_name == "test":
        frequency_rank_M = user_frequency.target_ranks(
            streams, class_N, popularity_C, target_M, settings
        )
    popularity_rank_M = user_frequency.popularity_ranks(popularity_C, class_N[target_M])
    user_M = streams.user_W[np.searchsorted(streams.last_W, target_M, side="right")]
    difference = UserBootstrap(user_M).mean(
        user_frequency.ndcg_at_10(rank_M), user_frequency.ndcg_at_10(frequency_rank_M)
    )
    return {
        "model": _ranking_metrics(rank_M),
        "user_frequency": {**_ranking_metrics(frequency_rank_M), **settings._asdict()},
        "popularity": _ranking_metrics(popularity_rank_M),
        "ndcg_at_10_over_user_frequency": _rounded(difference),
    }


def _churn_spend_metrics(
    model: BehaviourTransformer,
    corpus: Corpus,
    recipe: Recipe,
    windows: np.ndarray,
) -> dict[str, Any]:
    """Churn and spend metrics of labelled windows; None for both if there is only one class."""
    churned_W, truth_W = corpus.purchases_W[windows] == 0, corpus.spend_W[windows]
    if not len(windows) or churned_W.all() or not churned_W.any():
        return {"churn": None, "spend": None}
    ours = predict_churn_spend(model, corpus, windows, recipe)
    churn = {
        "windows": len(windows),
        "share": _round(churned_W.mean()),
        "mean_predicted": _round(ours.churn_W.mean()),
        "model": {"auc": _auc(churned_W, ours.churn_W)},
    }
    spend = {
        "mean": _round(truth_W.mean()),
        "mean_predicted": _round(ours.spend_W.mean()),
        "model": _error_metrics(truth_W, ours.spend_W),
    }
    return {"churn": churn, "spend": spend}


def _nll(logits_NC: torch.Tensor, target_N: np.ndarray) -> np.ndarray:
    target_N1 = torch.from_numpy(target_N.astype(np.int64))[:, None]
    return -logits_NC.float().log_softmax(1).gather(1, target_N1).squeeze(1).numpy()


def _rank(logits_NC: torch.Tensor, target_N: np.ndarray) -> np.ndarray:
    """(N,) number of classes above the true one, and half of those that tie (as in bfloat16)."""
    truth_N1 = logits_NC.gather(1, torch.from_numpy(target_N.astype(np.int64))[:, None])
    ties_N = (logits_NC == truth_N1).sum(1) - 1
    return ((logits_NC > truth_N1).sum(1) + ties_N // 2).numpy()


def _ranking_metrics(rank_N: np.ndarray) -> dict[str, float]:
    """Accuracy, and NDCG@10 with one relevant class."""
    return {
        "accuracy": _round((rank_N == 0).mean()),
        "ndcg_at_10": _round(user_frequency.ndcg_at_10(rank_N).mean()),
    }


def _auc(true_W: np.ndarray, score_W: np.ndarray) -> float:
    return _round(roc_auc_score(true_W, score_W))


def _error_metrics(truth_W: np.ndarray, predicted_W: np.ndarray) -> dict[str, float]:
    return {
        "mae": _round(np.abs(predicted_W - truth_W).mean()),
        "spearman": _round(spearmanr(predicted_W, truth_W).statistic),
    }


def _rounded(interval: Interval) -> list[float]:
    """The difference and the ends of its 95 % interval."""
    return [_round(value) for value in interval]


def _round(value: float) -> float:
    return round(float(value), 4)
