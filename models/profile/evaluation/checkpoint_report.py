"""Evaluates what a model checkpoint serves, on held-out windows, against every baseline model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from liveprofile.events.modalities import TEXT
from liveprofile.progress import Progress
from models.profile import checkpoint, text_encoder
from models.profile.data import training_rows
from models.profile.data.churn_spend_samples import user_features_at
from models.profile.data.examples import Corpus, build_corpus
from models.profile.data.prepared import Split, refuse_trained_part, split_by_time
from models.profile.encoding import Vocabulary
from models.profile.evaluation import baseline_models, next_basket_baselines
from models.profile.evaluation.any_time import ModelPredictions, any_time_report
from models.profile.evaluation.baseline_models import Fit
from models.profile.evaluation.baseline_models.data import Predictions
from models.profile.evaluation.evaluate import SplitName, predict_churn_spend
from models.profile.evaluation.moments import Moments
from models.profile.evaluation.next_basket import KINDS, compare_rankings, next_baskets
from models.profile.evaluation.next_basket_baselines import Tune
from models.profile.evaluation.served import served_rankings, served_values
from models.profile.inference import ProfileModel
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe

MOST_WINDOWS = 50_000  # random ones of a larger split: bounds memory and time


def checkpoint_report(
    recipe: Recipe,
    rows_path: Path,
    folder: Path,
    split_name: SplitName,
    on_progress: Progress = lambda *_: None,
    basket_models: Mapping[str, Tune] = next_basket_baselines.MODELS,
    value_models: Mapping[str, Fit] = baseline_models.MODELS,
) -> dict[str, Any]:
    """The metrics of the model checkpoint in `folder` and of the baseline models.

    The recipe splits the rows by time. Raises InputError, also for a model that was trained on
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
            kind: _next_basket(
                served, corpus, split, split_name, recipe, kind, basket_models, on_progress
            )
            for kind in KINDS
        },
        "any_time": any_time_report(
            streams,
            split,
            split_name,
            _stored_curves(served, corpus, recipe, on_progress)
            if model.value_curves
            else _stored_values(model, corpus, recipe),
            on_progress,
            value_models,
        ),
    }


def _next_basket(
    model: ProfileModel,
    corpus: Corpus,
    split: Split,
    split_name: SplitName,
    recipe: Recipe,
    kind: str,
    models: Mapping[str, Tune],
    on_progress: Progress,
) -> dict[str, Any]:
    """Metrics by part (all, repeat, explore); None if no window has a successor."""
    streams = corpus.streams
    targets = next_baskets(streams, kind, getattr(split, split_name))
    targets = next_basket_baselines.subset(targets, MOST_WINDOWS)
    if not len(targets.window_W):
        return None
    ranking = served_rankings(model, streams, targets.window_W, recipe.history_windows, on_progress)
    baselines = next_basket_baselines.rank_all(
        streams, kind, split, targets, split_name == "test", models, on_progress
    )
    rankings = {name: baseline.ranking_RK for name, baseline in baselines.items()}
    return {
        **compare_rankings(targets, getattr(ranking, kind), rankings),
        "chosen": {name: baseline.settings for name, baseline in baselines.items()},
    }


def _stored_curves(
    model: ProfileModel, corpus: Corpus, recipe: Recipe, on_progress: Progress
) -> ModelPredictions:
    """What the curves that each user's last window has stored say at the moment."""

    def predict(moments: Moments, days: int) -> Predictions:
        end_ms_M = corpus.streams.end_ms_W[moments.window_M]
        features_MX = user_features_at(corpus, recipe, moments.window_M, end_ms_M)
        return served_values(model, corpus.streams, moments, features_MX, days, on_progress)

    return predict


def _stored_values(model: BehaviourTransformer, corpus: Corpus, recipe: Recipe) -> ModelPredictions:
    """The churn and spend that each user's last window has stored, for the model's horizon."""

    def predict(moments: Moments, days: int) -> Predictions:
        if days != recipe.horizon_days:
            return Predictions()
        values = predict_churn_spend(model, corpus, moments.window_M, recipe)
        return Predictions(values.churn_W, values.spend_W)

    return predict
