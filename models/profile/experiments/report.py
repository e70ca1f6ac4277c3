"""A checkpoint on rows it was not trained on, beside every baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from liveprofile.events.modalities import TEXT
from liveprofile.progress import Progress
from models.profile import checkpoint, text_encoder
from models.profile.data import training_rows
from models.profile.data.examples import build
from models.profile.data.prepared import split
from models.profile.encoding import Vocabulary
from models.profile.evaluation import baselines
from models.profile.evaluation.evaluate import Part, evaluate
from models.profile.recipes import Recipe
from models.profile.training import fit_modalities


def report(
    recipe: Recipe,
    rows_path: Path,
    folder: Path,
    part: Part,
    on_progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """models.profile.evaluation.evaluate's metrics of the checkpoint in `folder`, and what each baseline chose.

    The rows are parted as the recipe says, so they must be those that it was trained on, or have
    its training's time before their validation part. Raises InputError.
    """
    model, items, categories, card = checkpoint.load(folder)
    encode_texts = text_encoder.encode if TEXT in model.fusion.modalities else None
    streams = training_rows.read(
        rows_path, lambda done, total: on_progress("read", done, total), encode_texts
    )
    parts = split(recipe, streams.end_ms_W)
    corpus = build(
        streams,
        Vocabulary(items, model.shape.item_buckets),
        Vocabulary(categories, model.shape.category_buckets),
        card.horizon_days,
    )
    others = baselines.values(corpus, parts, on_progress)
    return {
        "version": card.version,
        "part": part,
        **evaluate(model, corpus, parts, recipe, part, others, on_progress),
        "modalities": fit_modalities.measure(model, corpus, getattr(parts, part), recipe),
        "chosen": {name: one.chosen for name, one in others.items()},
    }
