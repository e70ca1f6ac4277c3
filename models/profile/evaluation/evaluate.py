"""How well a model does on windows it was not trained on, beside simple and established methods.

Next events are scored inside each window, given what came before them; churn and spend at each
window's end. Every difference comes with a bootstrap interval over users (models/baselines). The
test part decides nothing: what a method chooses, it chooses on validation.
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
from models.profile.data.batched_inference import passes
from models.profile.data.churn_spend_samples import samples, validation_windows
from models.profile.data.examples import Corpus
from models.profile.encoding import spans
from models.profile.evaluation.baselines import user_frequency
from models.profile.evaluation.baselines.data import Predictions
from models.profile.evaluation.intervals import Bootstrap, Interval
from models.profile.network import BehaviourTransformer, expected_spend
from models.profile.recipes import Recipe

if TYPE_CHECKING:
    from models.profile.data.prepared import Split

Part = Literal["validation", "test"]
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.5": 0.995, "p99.9": 0.999}
NOT_RANKED = np.iinfo(np.int64).max


class NextEvents(NamedTuple):
    """What the model says of M events inside windows."""

    source_M: np.ndarray  # the event's token in the corpus
    category_rank_M: np.ndarray  # classes likelier than the true one
    item_rank_M: np.ndarray  # NOT_RANKED for an item that is no candidate
    category_nll_M: np.ndarray  # nats
    type_nll_M: np.ndarray


class Values(NamedTuple):
    """What the model says at the ends of W windows."""

    churn_W: np.ndarray  # probability
    spend_W: np.ndarray  # currency


def evaluate(
    model: BehaviourTransformer,
    corpus: Corpus,
    parts: Split,
    recipe: Recipe,
    part: Part,
    baselines: dict[str, Predictions] | None = None,
    on_progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Metrics of one part: next_event, churn and spend, each beside its baselines.

    `baselines`: of churn and spend, as models.profile.evaluation.baselines.values gives them.
    """
    windows = getattr(parts, part)
    if part == "validation":
        with_labels = validation_windows(corpus, parts)
    else:
        with_labels = windows[corpus.known_labels(windows, parts.test_until_ms)]
    return {
        "next_event": _next_events(model, corpus, parts, recipe, part, on_progress),
        **_values(model, corpus, recipe, part, with_labels, baselines or {}),
    }


def surprise_quantiles(
    model: BehaviourTransformer, corpus: Corpus, windows: np.ndarray, recipe: Recipe
) -> dict[str, float]:
    """Of windows' mean nats an event, where there are events enough for the surprise rule."""
    events = next_events(model, corpus, windows, recipe)
    window_M = np.searchsorted(corpus.streams.last_W, events.source_M, side="right")
    _, place_M, count_W = np.unique(window_M, return_inverse=True, return_counts=True)
    surprise_W = np.bincount(place_M, events.category_nll_M + events.type_nll_M) / count_W
    enough = surprise_W[count_W >= recipe.surprise_min_events]
    if not len(enough):
        enough = surprise_W
    return {name: _round(np.quantile(enough, share)) for name, share in QUANTILES.items()}


def next_events(
    model: BehaviourTransformer,
    corpus: Corpus,
    windows: np.ndarray,
    recipe: Recipe,
    on_progress: Progress = lambda *_: None,
) -> NextEvents:
    """Of the scored events of `windows`."""
    found: list[NextEvents] = []
    shape = model.shape
    done = 0
    for one in passes(model, corpus, windows, recipe):
        target_N = np.flatnonzero(one.segments.scored_N)
        h_ND = one.h_PD[torch.from_numpy(one.examples.place_N[target_N] - 1)]
        row_N = torch.from_numpy(one.segments.row_N[target_N])
        rows = len(one.windows)
        had_BC = torch.from_numpy(one.examples.had_category_B.dense(rows, shape.category_rows))
        category_NC = model.category_logits(h_ND, had_BC[row_N])
        had_BI = torch.from_numpy(one.examples.had_item_B.dense(rows, 1 + shape.items)[:, 1:])
        item_N = one.examples.item_N[target_N]
        named = np.flatnonzero((item_N > 0) & (item_N <= shape.items))
        h_MD, row_M = h_ND[named], row_N[named]
        had_MI = had_BI[row_M]
        item_MI = torch.addcmul(model.item_logits(h_MD), model.repeats(h_MD)[1], had_MI)
        # As models.profile.inference chooses: the others it does not look at.
        tail = slice(recipe.ranked_items, None)
        item_MI[:, tail].masked_fill_(had_MI[:, tail] == 0, -math.inf)
        rank_M = _rank(item_MI, item_N[named] - 1)
        looked_at_M = item_MI.gather(1, torch.from_numpy(item_N[named] - 1).long()[:, None])
        rank_M[looked_at_M.squeeze(1).isinf().numpy()] = NOT_RANKED
        item_rank_N = np.full(len(target_N), NOT_RANKED)
        item_rank_N[named] = rank_M
        category_N = one.examples.category_N[target_N]
        found.append(
            NextEvents(
                one.segments.source_N[target_N],
                _rank(category_NC, category_N),
                item_rank_N,
                _nll(category_NC, category_N),
                _nll(model.type_logits(h_ND), one.examples.type_N[target_N]),
            )
        )
        done += rows
        on_progress("evaluate", done, len(windows))
    return NextEvents(*(np.concatenate(column) for column in zip(*found, strict=True)))


def values_at(
    model: BehaviourTransformer,
    corpus: Corpus,
    windows: np.ndarray,
    recipe: Recipe,
) -> Values:
    """At the ends of `windows`, which ascend."""
    seen = samples(model, corpus, recipe, windows, corpus.streams.end_ms_W[windows])
    with torch.inference_mode():
        churn_W, log_mean_W, log_std_W = model.values(seen.state_MD, seen.numbers_MX)
        churn_W = churn_W.sigmoid()
        spend_W = expected_spend(churn_W, log_mean_W, log_std_W)
    return Values(churn_W.numpy(), spend_W.numpy())


def _next_events(
    model: BehaviourTransformer,
    corpus: Corpus,
    parts: Split,
    recipe: Recipe,
    part: Part,
    on_progress: Progress,
) -> dict[str, Any]:
    streams = corpus.streams
    events = next_events(model, corpus, getattr(parts, part), recipe, on_progress)
    report: dict[str, Any] = {"events": len(events.source_M)}
    for name, names, class_N, rank_M in (
        ("category", streams.categories, streams.category_N, events.category_rank_M),
        ("item", streams.items, streams.item_N, events.item_rank_M),
    ):
        with_id = np.array([bool(one) for one in names])[class_N[events.source_M]]
        report[name] = _ranked(
            corpus, parts, part, class_N, len(names), events.source_M[with_id], rank_M[with_id],
            lambda done, of, n=name: on_progress(f"own {n}", done, of),
        )  # fmt: skip
    report["category"]["model"]["nll"] = _round(events.category_nll_M.mean())
    report["item"]["candidates"] = _round((events.item_rank_M != NOT_RANKED).mean())
    report["type"] = {"model": {"nll": _round(events.type_nll_M.mean())}}
    return report


def _ranked(
    corpus: Corpus,
    parts: Split,
    part: Part,
    class_N: np.ndarray,
    classes: int,
    target_M: np.ndarray,
    rank_M: np.ndarray,
    on_progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """The model's ranks of these events beside the user's own frequencies and popularity."""
    streams = corpus.streams
    popularity_C = user_frequency.popularity(streams, class_N, classes, parts.train)
    validation_M = spans(streams.first_W[parts.validation], streams.last_W[parts.validation])
    chosen_on = target_M if part == "validation" else validation_M
    settings, own_rank_M = user_frequency.choose(
        streams, class_N, popularity_C, chosen_on, on_progress
    )
    if part == "test":
        own_rank_M = user_frequency.ranks(streams, class_N, popularity_C, target_M, settings)
    user_M = streams.user_W[np.searchsorted(streams.last_W, target_M, side="right")]
    over = Bootstrap(user_M).mean(user_frequency.gains(rank_M), user_frequency.gains(own_rank_M))
    return {
        "model": _ranking(rank_M),
        "user_frequency": {**_ranking(own_rank_M), **settings._asdict()},
        "popularity": _ranking(user_frequency.popularity_ranks(popularity_C, class_N[target_M])),
        "ndcg_at_10_over_user_frequency": _interval(over),
    }


def _values(
    model: BehaviourTransformer,
    corpus: Corpus,
    recipe: Recipe,
    part: Part,
    windows: np.ndarray,
    baselines: dict[str, Predictions],
) -> dict[str, Any]:
    """Churn and spend of windows whose horizon lies inside the data."""
    left_W, truth_W = corpus.purchases_W[windows] == 0, corpus.spend_W[windows]
    if not len(windows) or left_W.all() or not left_W.any():
        return {"churn": None, "spend": None}
    found = values_at(model, corpus, windows, recipe)
    others = {name: getattr(one, part) for name, one in baselines.items()}
    drawn = Bootstrap(corpus.streams.user_W[windows])
    churn = {
        "windows": len(windows),
        "share": _round(left_W.mean()),
        "mean_predicted": _round(found.churn_W.mean()),
        "model": {"auc": _auc(left_W, found.churn_W)},
    }
    spend = {
        "mean": _round(truth_W.mean()),
        "mean_predicted": _round(found.spend_W.mean()),
        "model": _errors(truth_W, found.spend_W),
    }
    for name, other in others.items():
        if other.churn_W is not None:
            over = drawn.auc(found.churn_W, other.churn_W, left_W)
            churn[name] = {"auc": _auc(left_W, other.churn_W), "model_over": _interval(over)}
        if other.spend_W is not None:
            spend[name] = {
                **_errors(truth_W, other.spend_W),
                "model_over": {
                    "mae": _interval(drawn.mae(found.spend_W, other.spend_W, truth_W)),
                    "spearman": _interval(drawn.spearman(found.spend_W, other.spend_W, truth_W)),
                },
            }
    return {"churn": churn, "spend": spend}


def _nll(logits_NC: torch.Tensor, target_N: np.ndarray) -> np.ndarray:
    target_N1 = torch.from_numpy(target_N.astype(np.int64))[:, None]
    return -logits_NC.float().log_softmax(1).gather(1, target_N1).squeeze(1).numpy()


def _rank(logits_NC: torch.Tensor, target_N: np.ndarray) -> np.ndarray:
    """How many classes are likelier than the true one; of ties, which bfloat16 has, half."""
    truth_N1 = logits_NC.gather(1, torch.from_numpy(target_N.astype(np.int64))[:, None])
    ties_N = (logits_NC == truth_N1).sum(1) - 1
    return ((logits_NC > truth_N1).sum(1) + ties_N // 2).numpy()


def _ranking(rank_N: np.ndarray) -> dict[str, float]:
    """Accuracy, and NDCG@10 with one relevant class."""
    return {
        "accuracy": _round((rank_N == 0).mean()),
        "ndcg_at_10": _round(user_frequency.gains(rank_N).mean()),
    }


def _auc(true_W: np.ndarray, score_W: np.ndarray) -> float:
    return _round(roc_auc_score(true_W, score_W))


def _errors(truth_W: np.ndarray, predicted_W: np.ndarray) -> dict[str, float]:
    return {
        "mae": _round(np.abs(predicted_W - truth_W).mean()),
        "spearman": _round(spearmanr(predicted_W, truth_W).statistic),
    }


def _interval(one: Interval) -> list[float]:
    """Difference, and the 95 % interval's ends."""
    return [_round(value) for value in one]


def _round(value: float) -> float:
    return round(float(value), 4)
