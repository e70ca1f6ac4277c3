"""How well a model does on windows it was not trained on, beside simple baselines.

Next events are scored inside each window, given what came before them. Baselines: popularity in
training, and the user's own past counts (all events before, smoothed by popularity). The test part
is read here and nowhere else, once per training run.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from models.recipes import Recipe
from models.segments import PURCHASE, Corpus, cut, examples
from models.transformer import BehaviourTransformer, expected_spend

if TYPE_CHECKING:
    from models.train import Split

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.5": 0.995, "p99.9": 0.999}
SMOOTHING_EVENTS = 50.0


def evaluate(
    model: BehaviourTransformer, corpus: Corpus, parts: Split, recipe: Recipe
) -> tuple[dict[str, Any], dict[str, float]]:
    """Metrics of the test part, and quantiles of validation windows' surprise (nats an event)."""
    surprise_W, events_W = surprises(model, corpus, parts.validation, recipe)
    enough = surprise_W[events_W >= recipe.surprise_min_events]
    if not len(enough):
        enough = surprise_W
    quantiles = {
        name: round(float(np.quantile(enough, share)), 4) for name, share in QUANTILES.items()
    }
    test = {
        "next_event": _next_events(model, corpus, parts, recipe),
        **_values(model, corpus, parts, recipe),
    }
    return {"test": test}, quantiles


def surprises(
    model: BehaviourTransformer, corpus: Corpus, windows: np.ndarray, recipe: Recipe
) -> tuple[np.ndarray, np.ndarray]:
    """(W,) mean surprise of each window's scored events, and how many those are."""
    totals, counts = [], []
    for part, segments, batch, h_PD in _passes(model, corpus, windows, recipe):
        scored = segments.scored_N
        h_ND = h_PD[torch.from_numpy(batch.place_N[scored] - 1)]
        nats_N = _nll(model.category_logits(h_ND), batch.category_N[scored])
        nats_N += _nll(model.type_logits(h_ND), batch.type_N[scored])
        row_N = segments.row_N[scored]
        totals.append(np.bincount(row_N, nats_N, len(part)))
        counts.append(np.bincount(row_N, minlength=len(part)))
    total_W, count_W = np.concatenate(totals), np.concatenate(counts)
    return total_W / count_W, count_W


def _next_events(
    model: BehaviourTransformer, corpus: Corpus, parts: Split, recipe: Recipe
) -> dict[str, Any]:
    category_nll, category_rank, item_rank, type_nll, sources = [], [], [], [], []
    for _, segments, batch, h_PD in _passes(model, corpus, parts.test, recipe):
        scored = segments.scored_N
        h_ND = h_PD[torch.from_numpy(batch.place_N[scored] - 1)]
        logits_NC = model.category_logits(h_ND)
        category_nll.append(_nll(logits_NC, batch.category_N[scored]))
        category_rank.append(_rank(logits_NC, batch.category_N[scored]))
        type_nll.append(_nll(model.type_logits(h_ND), batch.type_N[scored]))
        item_N = batch.item_N[scored]
        named = (item_N > 0) & (item_N <= model.shape.items)
        item_rank.append(_rank(model.item_logits(h_ND[named]), item_N[named] - 1))
        sources.append(segments.source_N[scored])
    source_N = np.concatenate(sources)
    trained_N = _in_windows(corpus, parts.train)
    popularity_C = np.bincount(
        corpus.category_N[trained_N], minlength=model.shape.category_rows
    ).astype(float)
    item_popularity_I = np.bincount(corpus.item_N[trained_N], minlength=corpus.item_N.max() + 1)
    item_popularity_I = item_popularity_I[1 : 1 + model.shape.items].astype(float)
    own_nll, own_rank = _own_frequency(corpus, source_N, popularity_C)
    share_C = (popularity_C + 0.5) / (popularity_C + 0.5).sum()
    target_N = corpus.category_N[source_N]
    item_N = corpus.item_N[source_N]
    item_N = item_N[(item_N > 0) & (item_N <= model.shape.items)] - 1
    return {
        "events": len(source_N),
        "category": {
            "model": _ranking(np.concatenate(category_rank), np.concatenate(category_nll)),
            "user_frequency": _ranking(own_rank, own_nll),
            "popularity": _ranking(_places(popularity_C)[target_N], -np.log(share_C[target_N])),
        },
        "type": {"model": {"nll": _round(np.concatenate(type_nll).mean())}},
        "item": {
            "events": len(item_N),
            "model": _ranking(np.concatenate(item_rank)),
            "popularity": _ranking(_places(item_popularity_I)[item_N]),
        },
    }


def _values(
    model: BehaviourTransformer, corpus: Corpus, parts: Split, recipe: Recipe
) -> dict[str, Any]:
    """Churn and spend of test windows whose horizon lies inside the data."""
    windows = parts.test[corpus.known_labels(parts.test, parts.test_until_ms)]
    if not len(windows):
        return {"churn": None, "spend": None}
    churns, spends = [], []
    for part, _, batch, h_PD in _passes(model, corpus, windows, recipe):
        last_B = np.searchsorted(batch.place_N, batch.length * np.arange(1, len(part) + 1)) - 1
        logit_B, log_mean_B, log_std_B = model.values(h_PD[torch.from_numpy(batch.place_N[last_B])])
        churn_B = logit_B.sigmoid()
        churns.append(churn_B.numpy())
        spends.append(expected_spend(churn_B, log_mean_B, log_std_B).numpy())
    churn_W, spend_W = np.concatenate(churns), np.concatenate(spends)
    left_W, truth_W = corpus.purchases_W[windows] == 0, corpus.spend_W[windows]
    recent_windows_W, recent_spend_W = _last_horizon(corpus, windows)
    return {
        "churn": {
            "windows": len(windows),
            "share": _round(left_W.mean()),
            "auc": auc(churn_W, left_W),
            "auc_of_recent_windows": auc(-recent_windows_W, left_W),
            "mean_predicted": _round(churn_W.mean()),
        },
        "spend": {
            "mean": _round(truth_W.mean()),
            "mean_predicted": _round(spend_W.mean()),
            "mae": _round(np.abs(spend_W - truth_W).mean()),
            "mae_of_last_horizon": _round(np.abs(recent_spend_W - truth_W).mean()),
        },
    }


def auc(score_N: np.ndarray, true_N: np.ndarray) -> float | None:
    """Area under the ROC curve (Mann-Whitney, ties count half); None if one class is missing."""
    positives = int(true_N.sum())
    negatives = len(true_N) - positives
    if not positives or not negatives:
        return None
    _, inverse_N, counts = np.unique(score_N, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = mean_rank[inverse_N][true_N].sum()
    return _round((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def _passes(model: BehaviourTransformer, corpus: Corpus, windows: np.ndarray, recipe: Recipe):
    """Yields each chunk of windows with its segments, examples and final states h_PD."""
    with torch.inference_mode():
        for part in np.array_split(windows, math.ceil(len(windows) / 500)):
            history_B = np.full(len(part), recipe.history_windows)
            segments = cut(corpus, part, history_B, recipe.max_len)
            batch = examples(corpus, segments, model.shape.layout)
            groups = [(0, segments.rows, batch.length)]
            yield part, segments, batch, model.trunk(torch.from_numpy(batch.features_P7), groups)


def _own_frequency(
    corpus: Corpus, source_N: np.ndarray, popularity_C: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """NLL and rank of each event's category by its user's counts of all events before it."""
    streams = corpus.streams
    share_C = (popularity_C + 0.5) / (popularity_C + 0.5).sum()
    user_of_token = np.repeat(streams.user_W, streams.last_W - streams.first_W)
    user_N = user_of_token[source_N]
    nll_N, rank_N = np.empty(len(source_N)), np.empty(len(source_N))
    for user in np.unique(user_N):
        mine = np.flatnonzero(user_N == user)
        first, last = np.searchsorted(user_of_token, [user, user + 1])
        seen_TC = np.zeros((last - first, len(share_C)), np.float32)
        seen_TC[np.arange(last - first), corpus.category_N[first:last]] = 1
        before_TC = np.cumsum(seen_TC, 0) - seen_TC
        place = source_N[mine] - first
        score_MC = before_TC[place] + SMOOTHING_EVENTS * share_C
        truth_M = score_MC[np.arange(len(mine)), corpus.category_N[source_N[mine]]]
        nll_N[mine] = np.log(score_MC.sum(1)) - np.log(truth_M)
        rank_N[mine] = (score_MC > truth_M[:, None]).sum(1)
    return nll_N, rank_N


def _last_horizon(corpus: Corpus, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each window's user in the horizon up to its end: windows with a purchase, and spend."""
    streams = corpus.streams
    bought_N = streams.type_N == PURCHASE
    totals_N = np.concatenate([[0.0], np.cumsum(np.where(bought_N, streams.amount_N, 0.0))])
    amount_W = totals_N[streams.last_W] - totals_N[streams.first_W]
    bought_W = np.add.reduceat(bought_N, streams.first_W) > 0
    windows_before = np.concatenate([[0], np.cumsum(bought_W)])
    spend_before = np.concatenate([[0.0], np.cumsum(amount_W)])
    span_ms = int(np.ptp(streams.end_ms_W)) + corpus.horizon_ms + 1
    key_W = streams.user_W * span_ms + streams.end_ms_W - streams.end_ms_W.min()
    from_W = np.searchsorted(key_W, key_W[windows] - corpus.horizon_ms, side="right")
    from_W = np.maximum(from_W, windows - corpus.position_W[windows])
    return (
        windows_before[windows + 1] - windows_before[from_W],
        spend_before[windows + 1] - spend_before[from_W],
    )


def _in_windows(corpus: Corpus, windows: np.ndarray) -> np.ndarray:
    """Which of the corpus's tokens lie in these windows, as booleans."""
    chosen_W = np.zeros(len(corpus.streams.user_W), bool)
    chosen_W[windows] = True
    return np.repeat(chosen_W, corpus.streams.last_W - corpus.streams.first_W)


def _nll(logits_NC: torch.Tensor, target_N: np.ndarray) -> np.ndarray:
    target_N1 = torch.from_numpy(target_N.astype(np.int64))[:, None]
    return -logits_NC.log_softmax(1).gather(1, target_N1).squeeze(1).numpy()


def _rank(logits_NC: torch.Tensor, target_N: np.ndarray) -> np.ndarray:
    """How many classes are likelier than the true one."""
    target_N1 = torch.from_numpy(target_N.astype(np.int64))[:, None]
    return (logits_NC > logits_NC.gather(1, target_N1)).sum(1).numpy()


def _places(popularity_C: np.ndarray) -> np.ndarray:
    """(C,) rank of each class by popularity, 0 the most popular."""
    place_C = np.empty(len(popularity_C), int)
    place_C[np.argsort(-popularity_C, kind="stable")] = np.arange(len(popularity_C))
    return place_C


def _ranking(rank_N: np.ndarray, nll_N: np.ndarray | None = None) -> dict[str, float]:
    """Accuracy, NDCG@10 with one relevant class (Jarvelin and Kekalainen 2002), and mean NLL."""
    gain_N = np.where(rank_N < 10, 1 / np.log2(rank_N + 2), 0.0)
    measured = {"accuracy": _round((rank_N == 0).mean()), "ndcg_at_10": _round(gain_N.mean())}
    return measured if nll_N is None else {"nll": _round(nll_N.mean()), **measured}


def _round(value: float) -> float:
    return round(float(value), 4)
