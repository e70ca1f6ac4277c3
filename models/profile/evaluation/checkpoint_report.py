"""Evaluates what a model checkpoint serves, on held-out windows, against every baseline model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from liveprofile.events.modalities import TEXT
from liveprofile.progress import Progress
from models.profile import checkpoint, text_encoder
from models.profile.data import training_rows
from models.profile.data.examples import Corpus, build_corpus
from models.profile.data.moments import Moments
from models.profile.data.prepared import Split, refuse_trained_part, split_by_time
from models.profile.data.value_examples import user_features_at
from models.profile.encoding import Vocabulary
from models.profile.evaluation.any_time import (
    Baseline,
    ModelPredictions,
    Predictions,
    any_time_report,
)
from models.profile.evaluation.evaluate import SplitName
from models.profile.evaluation.next_basket import (
    KINDS,
    compare_rankings,
    next_baskets,
    subset,
)
from models.profile.evaluation.next_basket_baselines import RankBaselines, rank_baselines
from models.profile.evaluation.served import served_rankings, served_values
from models.profile.evaluation.value_baselines import linear_baselines
from models.profile.inference import ProfileModel
from models.profile.recipes import Recipe

MOST_WINDOWS = 50_000  # random ones of a larger split: bounds memory and time


def checkpoint_report(
    recipe: Recipe,
    rows_path: Path,
    folder: Path,
    split_name: SplitName,
    on_progress: Progress = lambda *_: None,
    rank: RankBaselines = rank_baselines,
    fit_values: Callable[..., dict[str, Baseline]] = linear_baselines,
) -> dict[str, Any]:
    """The metrics of the model checkpoint in `folder` and of the baseline models.

    The recipe splits the rows by time. fit_values: from corpus and recipe, then as FitBaselines.
    Raises InputError, also for a model that was trained on
    windows of the split.
    """
    model, items, categories, card = checkpoint.load(folder)
    encode_texts = text_encoder.encode if TEXT in model.fusion.modalities else None
    streams = training_rows.read(
        rows_path, lambda done, total: on_progress("read", done, total), encode_texts
    )
    split = split_by_time(recipe, streams.end_ms_W)
    refuse_trained_part(folder, card, split, split_name)
    corpus = build_corpus(
        streams,
        Vocabulary(items, model.shape.item_buckets),
        Vocabulary(categories, model.shape.category_buckets),
        card.horizon_days,
    )
    served = ProfileModel.load(folder, device="cpu")
    return {
        "version": card.version,
        "part": split_name,
        "rows": streams.fingerprint(),
        "next_basket": {
            kind: _next_basket(served, corpus, split, split_name, recipe, kind, rank, on_progress)
            for kind in KINDS
        },
        "any_time": any_time_report(
            streams,
            split,
            split_name,
            _stored_values(served, corpus, recipe, on_progress),
            partial(fit_values, corpus, recipe),
            on_progress,
        ),
    }


def _next_basket(
    model: ProfileModel,
    corpus: Corpus,
    split: Split,
    split_name: SplitName,
    recipe: Recipe,
    kind: str,
    rank: RankBaselines,
    on_progress: Progress,
) -> dict[str, Any]:
    """Metrics by part (all, repeat, explore); None if no window has a successor."""
    streams = corpus.streams
    targets = next_baskets(streams, kind, getattr(split, split_name))
    targets = subset(targets, MOST_WINDOWS)
    if not len(targets.window_W):
        return None
    ranking = served_rankings(model, streams, targets.window_W, recipe.history_windows, on_progress)
    baselines = rank(streams, kind, split, targets, split_name == "test", on_progress)
    rankings = {name: baseline.ranking_RK for name, baseline in baselines.items()}
    return {
        **compare_rankings(targets, getattr(ranking, kind), rankings),
        "chosen": {name: baseline.settings for name, baseline in baselines.items()},
    }


def _stored_values(
    model: ProfileModel, corpus: Corpus, recipe: Recipe, on_progress: Progress
) -> ModelPredictions:
    """What the curves that each user's last window has stored say at the moment."""

    def predict(moments: Moments, days: int) -> Predictions:
        end_ms_M = corpus.streams.end_ms_W[moments.window_M]
        features_MX = user_features_at(corpus, recipe, moments.window_M, end_ms_M)
        return served_values(model, corpus.streams, moments, features_MX, days, on_progress)

    return predict
