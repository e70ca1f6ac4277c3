"""What variants of a model are worth: every head on one sample of the validation part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from benchmarks.support import runs
from models.profile.data.churn_spend_samples import validation_windows
from models.profile.data.examples import Corpus, build
from models.profile.data.prepared import Split
from models.profile.data.training_rows import Streams
from models.profile.encoding import Vocabulary
from models.profile.evaluation import evaluate
from models.profile.evaluation.baselines import user_frequency
from models.profile.evaluation.intervals import Bootstrap
from models.profile.recipes import Recipe

if TYPE_CHECKING:
    from benchmarks.models.variant import Variant

HEADS = ("category_ndcg_at_10", "item_ndcg_at_10", "churn_auc", "spend_mae", "spend_spearman")
SEED = 20171001


class _Sample(NamedTuple):
    """What is predicted, and of which users."""

    windows: np.ndarray
    with_labels: np.ndarray  # other windows: their horizon ends in the validation part
    left_W: np.ndarray
    spend_W: np.ndarray


class _Said(NamedTuple):
    """What a variant says of the sample."""

    source_M: np.ndarray  # events with an item and a category
    category_gain_M: np.ndarray
    item_gain_M: np.ndarray
    churn_W: np.ndarray
    spend_W: np.ndarray


def quality(
    every: Mapping[str, Variant], streams: Streams, parts: Split, recipe: Recipe, windows: int
) -> dict[str, dict[str, Any]]:
    """By variant and head: `value`, `ratio` to the first variant's, and the `difference` from it
    with its bootstrap interval over users."""
    found: dict[str, dict[str, Any]] = {}
    reference, corpora = None, {}
    for name, variant in every.items():
        runs.say(f"quality of {name}")
        ids = (tuple(variant.served.items), tuple(variant.served.categories))
        if ids not in corpora:
            corpora[ids] = _corpus(variant, streams, recipe)
        corpus = corpora[ids]
        sample = _sample(corpus, parts, windows)
        said = _said(variant, corpus, sample, recipe)
        reference = reference or said
        found[name] = _compared(said, reference, sample, streams)
    return found


def _corpus(variant: Variant, streams: Streams, recipe: Recipe) -> Corpus:
    shape = variant.network.shape
    return build(
        streams,
        Vocabulary(variant.served.items, shape.item_buckets),
        Vocabulary(variant.served.categories, shape.category_buckets),
        recipe.horizon_days,
    )


def _sample(corpus: Corpus, parts: Split, windows: int) -> _Sample:
    random = np.random.default_rng(SEED)
    with_labels = random.permutation(validation_windows(corpus, parts))[:windows]
    with_labels.sort()
    return _Sample(
        np.sort(random.permutation(parts.validation)[:windows]),
        with_labels,
        corpus.purchases_W[with_labels] == 0,
        corpus.spend_W[with_labels],
    )


def _said(variant: Variant, corpus: Corpus, sample: _Sample, recipe: Recipe) -> _Said:
    recipe = replace(recipe, ranked_items=variant.ranked_items)
    events = evaluate.next_events(variant.network, corpus, sample.windows, recipe)
    at_ends = evaluate.values_at(variant.network, corpus, sample.with_labels, recipe)
    streams = corpus.streams
    with_ids_M = _named(streams.items)[streams.item_N[events.source_M]]
    with_ids_M &= _named(streams.categories)[streams.category_N[events.source_M]]
    return _Said(
        events.source_M[with_ids_M],
        user_frequency.gains(events.category_rank_M[with_ids_M]),
        user_frequency.gains(events.item_rank_M[with_ids_M]),
        at_ends.churn_W,
        at_ends.spend_W,
    )


def _named(names: list[str]) -> np.ndarray:
    return np.array([bool(name) for name in names])


def _compared(
    said: _Said, reference: _Said, sample: _Sample, streams: Streams
) -> dict[str, dict[str, Any]]:
    user_M = streams.user_W[np.searchsorted(streams.last_W, said.source_M, side="right")]
    of_events, of_windows = Bootstrap(user_M), Bootstrap(streams.user_W[sample.with_labels])
    left_W, truth_W = sample.left_W, sample.spend_W
    heads = {
        "category_ndcg_at_10": (
            [one.category_gain_M.mean() for one in (said, reference)],
            of_events.mean(said.category_gain_M, reference.category_gain_M),
        ),
        "item_ndcg_at_10": (
            [one.item_gain_M.mean() for one in (said, reference)],
            of_events.mean(said.item_gain_M, reference.item_gain_M),
        ),
        "churn_auc": (
            [roc_auc_score(left_W, one.churn_W) for one in (said, reference)],
            of_windows.auc(said.churn_W, reference.churn_W, left_W),
        ),
        "spend_mae": (
            [np.abs(one.spend_W - truth_W).mean() for one in (said, reference)],
            of_windows.mae(said.spend_W, reference.spend_W, truth_W),
        ),
        "spend_spearman": (
            [spearmanr(one.spend_W, truth_W).statistic for one in (said, reference)],
            of_windows.spearman(said.spend_W, reference.spend_W, truth_W),
        ),
    }
    return {
        head: {
            "value": round(float(value), 4),
            "ratio": round(float(value / of_reference), 4),
            "difference": [round(end, 4) for end in difference],
        }
        for head, ((value, of_reference), difference) in heads.items()
    }
