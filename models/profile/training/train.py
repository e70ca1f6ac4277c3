"""Trains the Transformer on a backfill's rows and writes a checkpoint. Fixed seeds, and on the CPU
one thread a process: the same rows, recipe, versions and processor give the same weights, also
where a killed training goes on.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from liveprofile import __version__
from liveprofile.errors import InputError
from liveprofile.progress import Progress
from models.profile import checkpoint, user_embedding
from models.profile.data import training_rows
from models.profile.data.examples import build
from models.profile.data.prepared import Prepared, Split, Teacher, most_frequent, split
from models.profile.data.training_rows import PART_WINDOWS, Streams
from models.profile.encoding import Vocabulary, spans
from models.profile.evaluation import evaluate
from models.profile.network import BehaviourTransformer, Shape
from models.profile.recipes import Recipe
from models.profile.text_encoder import Encode
from models.profile.training import (
    churn_spend_head,
    curves,
    distributed,
    fit_modalities,
    training_state,
)
from models.profile.training.distributed import Ranks
from models.profile.training.trainer import Trainer


def newer(
    recipe: Recipe, end_ms_W: np.ndarray, since_ms: int, random: np.random.Generator
) -> Split:
    """What came after `since_ms`, its last windows as validation, and a sample of what was before,
    lest it be forgotten. No test: that is what comes next. Raises InputError for nothing new."""
    new_W = end_ms_W > since_ms
    if not new_W.any():
        raise InputError(f"nothing new in the rows: no window ends after {_iso(since_ms)}")
    until_ms = int(np.quantile(end_ms_W[new_W], 1 - recipe.continue_validation_share))
    train, old = np.flatnonzero(new_W & (end_ms_W <= until_ms)), np.flatnonzero(~new_W)
    if not len(train):
        raise InputError(f"all rows after {_iso(since_ms)} end at once: none left for validation")
    again = int(len(train) * recipe.replay_share / (1 - recipe.replay_share))
    replayed = random.permutation(old)[:again]
    last_ms = int(end_ms_W.max())
    return Split(
        np.sort(np.concatenate([train, replayed])),
        np.flatnonzero(end_ms_W > until_ms),
        np.empty(0, np.int64),
        until_ms,
        last_ms,
        last_ms,
    )


def prepare(
    recipe: Recipe,
    rows_path: Path,
    on_progress: Progress = lambda *_: None,
    teacher: Teacher | None = None,
    goes_on: bool = False,
    encode_texts: Encode | None = None,
) -> Prepared:
    """Raises InputError for rows that the recipe can't use. `goes_on`: as for `arrange`;
    `encode_texts`: as for `rows.read`."""
    streams = training_rows.read(
        rows_path, lambda done, of: on_progress("read", done, of), encode_texts
    )
    if goes_on:
        random = np.random.default_rng(recipe.seed)
        parts = newer(recipe, streams.end_ms_W, teacher.trained_until_ms, random)
    else:
        parts = split(recipe, streams.end_ms_W)
    data = arrange(recipe, streams, parts, teacher, goes_on)
    if not data.items or not data.categories:
        raise InputError(f"training rows {rows_path}: no event has an item and a category")
    known = data.corpus.known_labels(parts.train, parts.train_until_ms)
    if not goes_on and not known.any():
        raise InputError(
            f"training rows {rows_path}: shorter than the recipe's horizon of"
            f" {recipe.horizon_days} days; take a recipe with a shorter one"
        )
    return data


def arrange(
    recipe: Recipe,
    streams: Streams,
    parts: Split,
    teacher: Teacher | None = None,
    goes_on: bool = False,
) -> Prepared:
    """Names are the teacher's, else the most frequent in training.

    `goes_on`: items that are new to the teacher and frequent enough become names of it.
    """
    counts_I, counts_C = _counts(streams, parts.train)
    if teacher:
        if goes_on:
            teacher = teacher.with_new(streams.items, counts_I, recipe)
        items, item_counts = teacher.items, _counts_of(teacher.items, streams.items, counts_I)
        categories = teacher.categories
        category_counts = _counts_of(categories, streams.categories, counts_C)
    else:
        items, item_counts = most_frequent(streams.items, counts_I, recipe.item_names)
        categories, category_counts = most_frequent(
            streams.categories, counts_C, recipe.category_names
        )
    corpus = build(
        streams,
        Vocabulary(items, recipe.item_buckets),
        Vocabulary(categories, recipe.category_buckets),
        recipe.horizon_days,
    )
    return Prepared(corpus, parts, items, item_counts, categories, category_counts, teacher)


def fit(
    recipe: Recipe,
    data: Prepared,
    ranks: Ranks = Ranks(),  # noqa: B008
    state: training_state.StateFile | None = None,
    on_progress: Progress = lambda *_: None,
    on_note: Callable[[str], None] = lambda _: None,
    on_epoch: Callable[[int, float], None] = lambda *_: None,
) -> Trainer:
    """The trainer when it is done. `on_epoch` gets each epoch and its loss on validation.

    With `state` it goes on where another process was. Raises InputError for a state of another run
    and for a loss that is not finite.
    """
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    shape = Shape(
        len(data.items), recipe.item_buckets, len(data.categories), recipe.category_buckets,
        recipe.dim, recipe.layers, recipe.heads, recipe.max_len,
        min(recipe.embedding, recipe.dim),
    )  # fmt: skip
    model = BehaviourTransformer(shape)
    _start_from_frequencies(model, data.item_counts, data.category_counts)
    teacher = data.teacher and data.teacher.model
    if teacher:
        _start_from(model, teacher)
    trainer = Trainer(recipe, model, data, ranks, teacher)
    trainer.run(state, on_progress, on_note, on_epoch)
    return trainer


def train(
    recipe: Recipe,
    rows_path: Path,
    out: Path,
    on_progress: Progress = lambda *_: None,
    on_note: Callable[[str], None] = lambda _: None,
    *,
    fresh: bool = False,
    device: str = "cpu",
    teacher_folder: Path | None = None,
    goes_on: bool = False,
    encode_texts: Encode | None = None,
) -> dict | None:
    """Writes a checkpoint to the folder `out` and returns its card as a dict.

    A training that was killed leaves its state in `out`, and the next one goes on there; `fresh`:
    not so. `device`: auto, cpu or cuda. Under torchrun only rank 0 writes, and None is what the
    others return. `teacher_folder`: a checkpoint to begin with and to learn the answers of; with
    `goes_on` it is this one that learns what is new in the rows. `encode_texts`: as `rows.read`'s.
    Raises InputError for rows the recipe can't use and for a state of another run.
    """
    with distributed.ranks(device) as ranks:
        teacher = teacher_folder and Teacher.load(teacher_folder, recipe)
        if goes_on:
            recipe = recipe.going_on(teacher.model.shape, teacher.revision)
        data = prepare(recipe, rows_path, on_progress, teacher, goes_on, encode_texts)
        run = _run(recipe, data)
        if differ := training_state.differences(ranks.from_first(lambda: run), run):
            raise InputError(f"rank {ranks.rank}: another run than that of rank 0: {differ}")
        state = training_state.StateFile(out / training_state.FILE, run)
        if fresh and ranks.first:
            state.remove()
        trainer = fit(recipe, data, ranks, state, on_progress, on_note)
    if not ranks.first:
        return None
    model, parts, streams = trainer.model, data.parts, data.corpus.streams
    checkpoint.round_weights(model)  # the value head is fitted to the states that will be served
    # A model that goes on keeps its directions: its embeddings stay comparable with those stored.
    embedded = {} if goes_on else user_embedding.fit(model, data.corpus, parts.train, recipe)
    fitted = churn_spend_head.fit(model, data.corpus, parts, recipe, on_progress)
    modalities = fit_modalities.fit(model, data.corpus, parts, recipe, on_progress)
    checkpoint.round_weights(model)
    measured = {
        name: evaluate.evaluate(
            one, data.corpus, parts, recipe, "validation", on_progress=on_progress
        )
        for name, one in (
            ("validation", model),
            *([("validation_before", data.teacher.model)] if goes_on else []),
        )
    }
    surprise = evaluate.surprise_quantiles(model, data.corpus, parts.validation, recipe)

    card = checkpoint.save(
        out,
        model,
        data.items,
        data.categories,
        name=recipe.name,
        version=f"{recipe.name}-{recipe.revision}",
        revision=recipe.revision,
        horizon_days=recipe.horizon_days,
        decay_days=recipe.decay_days,
        ranked_items=recipe.ranked_items,
        recipe=run["recipe"],
        data={
            "licence": recipe.data_licence,
            "teacher": run["teacher"],
            "fingerprint": run["rows"],
            "users": streams.users,
            "windows": len(streams.end_ms_W),
            "events": len(streams.time_ms_N),
            "unusable_events": streams.unusable_events,
            "train_until": _iso(parts.train_until_ms),
            "validation_until": _iso(parts.validation_until_ms),
            "test_until": _iso(parts.test_until_ms),
            "windows_by_part": {
                name: len(getattr(parts, name)) for name in ("train", "validation", "test")
            },
        },
        metrics={
            "epochs": len(trainer.curves),
            "best_epoch": trainer.best_epoch,
            "embedding": embedded,
            "values": fitted,
            "seconds": round(sum(row["seconds"] for row in trainer.curves), 1),
            **measured,
        },
        surprise_quantiles=surprise,
        modalities=modalities,
        libraries=run["libraries"],
    )
    curves.write(out, trainer.curves, trainer.best_epoch)
    state.remove()
    return card.model_dump()


def _run(recipe: Recipe, data: Prepared) -> dict[str, Any]:
    """All that decides the result of a run, but for the processor."""
    return {
        "recipe": dataclasses.asdict(recipe),
        "teacher": data.teacher.sha256 if data.teacher else {},
        "rows": data.corpus.streams.fingerprint(),
        "libraries": checkpoint.versions(),
        "liveprofile": __version__,
    }


def _counts(streams: Streams, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often each item and each category comes in these windows."""
    counts_I = np.zeros(len(streams.items), np.int64)
    counts_C = np.zeros(len(streams.categories), np.int64)
    for part in np.array_split(windows, math.ceil(len(windows) / PART_WINDOWS)):
        tokens = spans(streams.first_W[part], streams.last_W[part])
        counts_I += np.bincount(streams.item_N[tokens], minlength=len(counts_I))
        counts_C += np.bincount(streams.category_N[tokens], minlength=len(counts_C))
    return counts_I, counts_C


def _counts_of(names: list[str], seen: list[str], counts: np.ndarray) -> np.ndarray:
    """How often each name was seen; at least once, since what may come must be drawable."""
    found = dict(zip(seen, counts.tolist(), strict=True))
    return np.array([max(1, found.get(name, 0)) for name in names])


def _start_from(model: BehaviourTransformer, other: BehaviourTransformer) -> None:
    """Takes over every weight that has the same name and shape there."""
    theirs = other.state_dict()
    fitting = {
        name: theirs[name]
        for name, weight in model.state_dict().items()
        if name in theirs and theirs[name].shape == weight.shape
    }
    model.load_state_dict(fitting, strict=False)


def _start_from_frequencies(
    model: BehaviourTransformer, item_counts: np.ndarray, category_counts: np.ndarray
) -> None:
    """Biases begin at the log frequencies: training starts from the popularity model."""
    named = slice(1, 1 + len(category_counts))
    with torch.no_grad():
        model.item_bias.copy_(torch.from_numpy(np.log(item_counts / item_counts.sum())))
        model.category_bias.fill_(math.log(0.5 / category_counts.sum()))
        share = category_counts / category_counts.sum()
        model.category_bias[named] = torch.from_numpy(np.log(share)).float()


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat()
