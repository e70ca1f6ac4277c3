"""Measures the quality of model variants: every head on one sample of the validation part.

Shapes: W windows, M events with a known item and category.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.support import runs
from lab.user_model.next_events import gains, predict_churn_spend, score_next_events
from liveprofile.units import DAY_MS
from models.profile.data.examples import Corpus, build_corpus
from models.profile.data.moments import Moments, outcomes
from models.profile.data.prepared import Split
from models.profile.data.training_rows import Streams
from models.profile.encoding import Vocabulary
from models.profile.evaluation.intervals import UserBootstrap
from models.profile.recipes import Recipe

if TYPE_CHECKING:
    from lab.user_model.variant import Variant

HEADS = ("category_ndcg_at_10", "item_ndcg_at_10", "churn_auc", "spend_mae")
SEED = 20171001


class EvaluationSample(NamedTuple):
    """The windows to predict for, and the true churn and spend."""

    windows: np.ndarray  # for the next category and item
    labelled_windows: np.ndarray  # for churn and spend: their horizon ends in the validation part
    churned_W: np.ndarray  # of labelled_windows
    spend_W: np.ndarray  # of labelled_windows


class HeadPredictions(NamedTuple):
    """A variant's predictions for the sample."""

    source_M: np.ndarray  # predicted events, as positions in the streams
    category_gain_M: np.ndarray  # NDCG@10 of each event
    item_gain_M: np.ndarray
    churn_W: np.ndarray
    spend_W: np.ndarray


def quality(
    variants: Mapping[str, Variant], streams: Streams, parts: Split, recipe: Recipe, windows: int
) -> dict[str, dict[str, Any]]:
    """Measures every head of every variant.

    Returns, by variant and head, the `value`, its `ratio` to the first variant's and its
    `difference` from it with a bootstrap interval over users.
    """
    results: dict[str, dict[str, Any]] = {}
    reference, corpora = None, {}
    for name, variant in variants.items():
        runs.log_progress(f"quality of {name}")
        ids = (tuple(variant.served.items), tuple(variant.served.categories))
        if ids not in corpora:
            corpora[ids] = _build_corpus(variant, streams, recipe)
        corpus = corpora[ids]
        sample = _draw_sample(corpus, parts, windows, recipe.horizon_days)
        predictions = _predict(variant, corpus, sample, recipe)
        reference = reference or predictions
        results[name] = _compare_heads(predictions, reference, sample, streams)
    return results


def _build_corpus(variant: Variant, streams: Streams, recipe: Recipe) -> Corpus:
    shape = variant.network.shape
    return build_corpus(
        streams,
        Vocabulary(variant.served.items, shape.item_buckets),
        Vocabulary(variant.served.categories, shape.category_buckets),
    )


def _draw_sample(corpus: Corpus, parts: Split, windows: int, horizon_days: int) -> EvaluationSample:
    random = np.random.default_rng(SEED)
    end_ms_W = corpus.streams.end_ms_W
    label_ms_W = end_ms_W + horizon_days * DAY_MS
    is_labelled_W = (label_ms_W > parts.train_until_ms) & (label_ms_W <= parts.validation_until_ms)
    labelled_windows = np.sort(random.permutation(np.flatnonzero(is_labelled_W))[:windows])
    moments = Moments(labelled_windows, end_ms_W[labelled_windows])
    truth = outcomes(corpus.streams, moments, horizon_days)
    return EvaluationSample(
        np.sort(random.permutation(parts.validation)[:windows]),
        labelled_windows,
        truth.churned_M,
        truth.spend_M,
    )


def _predict(
    variant: Variant, corpus: Corpus, sample: EvaluationSample, recipe: Recipe
) -> HeadPredictions:
    events = score_next_events(variant.network, corpus, sample.windows, recipe)
    churn_W, spend_W = predict_churn_spend(variant.network, corpus, sample.labelled_windows, recipe)
    streams = corpus.streams
    known_M = _is_known(streams.items)[streams.item_N[events.source_M]]
    known_M &= _is_known(streams.categories)[streams.category_N[events.source_M]]
    return HeadPredictions(
        events.source_M[known_M],
        gains(events.category_rank_M[known_M]),
        gains(events.item_rank_M[known_M]),
        churn_W,
        spend_W,
    )


def _is_known(names: list[str]) -> np.ndarray:
    return np.array([bool(name) for name in names])


def _compare_heads(
    predictions: HeadPredictions,
    reference: HeadPredictions,
    sample: EvaluationSample,
    streams: Streams,
) -> dict[str, dict[str, Any]]:
    user_M = streams.user_W[np.searchsorted(streams.last_W, predictions.source_M, side="right")]
    event_bootstrap = UserBootstrap(user_M)
    window_bootstrap = UserBootstrap(streams.user_W[sample.labelled_windows])
    churned_W, true_spend_W = sample.churned_W, sample.spend_W
    heads = {
        "category_ndcg_at_10": (
            [each.category_gain_M.mean() for each in (predictions, reference)],
            event_bootstrap.mean(predictions.category_gain_M, reference.category_gain_M),
        ),
        "item_ndcg_at_10": (
            [each.item_gain_M.mean() for each in (predictions, reference)],
            event_bootstrap.mean(predictions.item_gain_M, reference.item_gain_M),
        ),
        "churn_auc": (
            [roc_auc_score(churned_W, each.churn_W) for each in (predictions, reference)],
            window_bootstrap.auc(predictions.churn_W, reference.churn_W, churned_W),
        ),
        "spend_mae": (
            [np.abs(each.spend_W - true_spend_W).mean() for each in (predictions, reference)],
            window_bootstrap.mae(predictions.spend_W, reference.spend_W, true_spend_W),
        ),
    }
    return {
        head: {
            "value": round(float(value), 4),
            "ratio": round(float(value / reference_value), 4),
            "difference": [round(end, 4) for end in difference],
        }
        for head, ((value, reference_value), difference) in heads.items()
    }
