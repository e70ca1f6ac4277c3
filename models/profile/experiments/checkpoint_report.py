"""Evaluates a model checkpoint on held-out windows against every baseline model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from liveprofile.events.modalities import TEXT
from liveprofile.progress import Progress
from models.profile import checkpoint, text_encoder
from models.profile.data import training_rows
from models.profile.data.examples import build_corpus
from models.profile.data.prepared import split_by_time
from models.profile.encoding import Vocabulary
from models.profile.evaluation import baseline_models
from models.profile.evaluation.evaluate import SplitName, evaluate
from models.profile.recipes import Recipe
from models.profile.training import fit_modalities


def checkpoint_report(
    recipe: Recipe,
    rows_path: Path,
    folder: Path,
    split_name: SplitName,
    on_progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """The metrics of the model checkpoint in `folder` and the baseline models' chosen settings.

    The recipe splits the rows by time. They must be the rows that the model was trained on, or the
    training time must lie before their validation split. Raises InputError.
    """
    model, items, categories, card = checkpoint.load(folder)
    encode_texts = text_encoder.encode if TEXT in model.fusion.modalities else None
    streams = training_rows.read(
        rows_path, lambda done, total: on_progress("read", done, total), encode_texts
    )
    split = split_by_time(recipe, streams.end_ms_W)
    corpus = build_corpus(
        streams,
        Vocabulary(items, model.shape.item_buckets),
        Vocabulary(categories, model.shape.category_buckets),
        card.horizon_days,
    )
    baselines = baseline_models.fit_all(corpus, split, on_progress)
    return {
        "version": card.version,
        "part": split_name,
        **evaluate(model, corpus, split, recipe, split_name, baselines, on_progress),
        "modalities": fit_modalities.measure(model, corpus, getattr(split, split_name), recipe),
        "chosen": {name: predictions.chosen_settings for name, predictions in baselines.items()},
    }
