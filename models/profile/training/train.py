"""Trains the user model on a backfill's rows and writes a model checkpoint.

Seeds are fixed, and on the CPU each process uses one thread. The same rows, recipe, versions and
processor give the same weights, also if the training was killed and resumed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from liveprofile import __version__
from liveprofile.errors import InputError
from liveprofile.progress import Progress
from models import trained_users
from models.profile import checkpoint
from models.profile.data.prepared import (
    PreparedData,
    Split,
    SplitName,
    Teacher,
    iso_utc,
    prepare,
    prepare_refit,
    refuse_trained_part,
)
from models.profile.model_card import WEIGHTS
from models.profile.network import BehaviourTransformer, Shape
from models.profile.recipes import Recipe
from models.profile.text_encoder import TextEncoder
from models.profile.training import curves, distributed, training_state
from models.profile.training.distributed import ProcessGroup
from models.profile.training.parts import fit_parts, surprise_quantiles, validation_metrics
from models.profile.training.trainer import Trainer
from models.trained_users import USER_BYTES, TrainedUsers


def train(
    recipe: Recipe,
    rows_path: Path,
    out: Path,
    on_progress: Progress = lambda *_: None,
    on_note: Callable[[str], None] = lambda _: None,
    *,
    device: str = "cpu",
    teacher_folder: Path | None = None,
    incremental: bool = False,
    encode_texts: TextEncoder | None = None,
    without: Collection[str] = (),
    refit: SplitName | None = None,
) -> dict | None:
    """Writes a model checkpoint to the folder `out` and returns its model card as a dict.

    A killed training leaves its state in `out`, and the next call resumes from it.
    Under torchrun only rank 0 writes, and the other ranks return None.

    device: "auto", "cpu" or "cuda"
    teacher_folder: a model checkpoint to start from, whose outputs the model also learns
    incremental: continues the training of the teacher on the windows after its own training
    encode_texts: that of `training_rows.read`
    without: users who are left out, also those of the teacher's training
    refit: after validation has chosen everything, all is trained again on the windows up to the end
        of this part; the metrics of the card are those before

    Raises InputError for rows that the recipe cannot use, for the state of another run, for a
    teacher that was trained on a user of `without` or on validation, and for a refit of continued
    training.
    """
    if incremental and refit:
        raise InputError("refit: continued training has no refit")
    with distributed.process_group(device) as processes:
        teacher = teacher_folder and Teacher.load(teacher_folder, recipe)
        if teacher:
            _check_teacher(teacher_folder, teacher, without)
        if incremental:
            recipe = recipe.for_continued_training(teacher.model.shape, teacher.card.revision)
        data = prepare(recipe, rows_path, on_progress, teacher, incremental, encode_texts, without)
        if teacher and not incremental and "refit" in teacher.card.data:
            # It would choose by its memory if it has seen validation.
            refuse_trained_part(teacher_folder, teacher.card, data.split, "validation")
        run = _run_identity(recipe, data)
        if changes := training_state.differences(processes.broadcast(lambda: run), run):
            raise InputError(f"rank {processes.rank} has another run than rank 0: {changes}")
        state = training_state.StateFile(out / training_state.FILE, run)
        trainer = fit(recipe, data, processes, state, on_progress, on_note)
        if refit:
            more = prepare_refit(recipe, data, refit)
            epochs = trainer.best_epoch
            run_again = {**run, "refit": refit, "refit_epochs": epochs}
            state = training_state.StateFile(out / training_state.REFIT_FILE, run_again)
            again = fit(recipe, more, processes, state, on_progress, on_note, epochs=epochs)
    if not processes.is_main:
        return None
    model, stored = trainer.model, data
    # Continued training keeps the projection: new embeddings stay comparable with stored ones.
    parts = fit_parts(model, data, recipe, on_progress, keep_embedding=incremental)
    metrics = {
        "epochs": len(trainer.curves),
        "best_epoch": trainer.best_epoch,
        **parts.metrics(),
        "seconds": trainer.seconds(),
        "validation": validation_metrics(trainer),
    }
    # Also of a refitted model: what it was trained on surprises it less than what comes.
    surprise = surprise_quantiles(model, data.corpus, data.split.validation, recipe)
    if refit:
        model, stored = again.model, more
        fitted = fit_parts(model, more, recipe, on_progress, chosen=parts)
        metrics["refit"] = {**fitted.metrics(), "seconds": again.seconds()}
    card = checkpoint.save(
        out,
        model,
        stored.items,
        stored.categories,
        name=recipe.name,
        version=f"{recipe.name}-{recipe.revision}{'-refit' if refit else ''}",
        revision=recipe.revision,
        horizon_days=recipe.horizon_days,
        decay_days=recipe.decay_days,
        recipe=run["recipe"],
        data=_described(recipe, run, stored, refit, data.split),
        metrics=metrics,
        surprise_quantiles=surprise,
        modalities=parts.modalities,
        libraries=run["libraries"],
    )
    if data.teacher is None or data.teacher.trained_users is not None:
        streams, taught = data.corpus.streams, data.teacher and data.teacher.trained_users
        keys = (key.ljust(USER_BYTES, b"\0") for key in streams.user_key_U.tolist())
        trained = TrainedUsers.of_training(keys, run["rows"], taught)
        trained_users.write(out, WEIGHTS, trained)
    curves.write(out, trainer.curves, trainer.best_epoch)
    training_state.remove(out)
    return card.model_dump()


def fit(
    recipe: Recipe,
    data: PreparedData,
    processes: ProcessGroup = ProcessGroup(),  # noqa: B008
    state: training_state.StateFile | None = None,
    on_progress: Progress = lambda *_: None,
    on_note: Callable[[str], None] = lambda _: None,
    on_epoch: Callable[[int, float], None] = lambda *_: None,
    epochs: int | None = None,
) -> Trainer:
    """Trains the network and returns the trainer.

    `on_epoch` receives each epoch and its validation loss. With `state`, the training resumes from
    the state of an earlier process. `epochs` is that of `Trainer.run`. Raises InputError for the
    state of another run and for a loss that is not finite.
    """
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    shape = Shape(
        items=len(data.items),
        item_buckets=recipe.item_buckets,
        categories=len(data.categories),
        category_buckets=recipe.category_buckets,
        dim=recipe.dim,
        layers=recipe.layers,
        heads=recipe.heads,
        max_len=recipe.max_len,
        embedding=min(recipe.embedding, recipe.dim),
    )
    model = BehaviourTransformer(shape)
    _init_biases_from_frequencies(model, data.item_counts, data.category_counts)
    if data.teacher:  # start with its weights of the same name and shape
        own = model.state_dict()
        for name, weight in data.teacher.model.state_dict().items():
            if name in own and own[name].shape == weight.shape:
                own[name].copy_(weight)
    trainer = Trainer(recipe, model, data, processes)
    trainer.run(state, on_progress, on_note, on_epoch, epochs)
    return trainer


def _check_teacher(folder: Path, teacher: Teacher, without: Collection[str]) -> None:
    """Raises InputError if the teacher was trained on users who are left out, or may have been."""
    if not without:
        return
    if teacher.trained_users is None:
        reason = f"{trained_users.FILE} is missing, so it may have been trained on"
    elif found := sum(user in teacher.trained_users for user in without):
        reason = f"was trained on {found} of the"
    else:
        return
    raise InputError(f"teacher {folder}: {reason} users who are left out; train it again")


def _described(
    recipe: Recipe, run: dict[str, Any], data: PreparedData, refit: SplitName | None, chosen: Split
) -> dict[str, Any]:
    """The field `data` of the card. chosen: the split that has chosen what a refit repeats."""
    split, streams = data.split, data.corpus.streams
    described = {
        "licence": recipe.data_licence,
        "teacher": run["teacher"],
        "fingerprint": run["rows"],
        "users": streams.users,
        "windows": len(streams.end_ms_W),
        "events": len(streams.time_ms_N),
        "unusable_events": streams.unusable_events,
        "train_until": iso_utc(split.train_until_ms),
        "validation_until": iso_utc(split.validation_until_ms),
        "test_until": iso_utc(split.test_until_ms),
        "windows_by_part": {
            name: len(getattr(split, name)) for name in ("train", "validation", "test")
        },
    }
    if refit:
        described["refit"] = {
            "part": refit,
            "chosen_by_training_until": iso_utc(chosen.train_until_ms),
            "chosen_by_validation_until": iso_utc(chosen.validation_until_ms),
            "metrics": "those of the training before the refit, on validation",
            "measured_by": "test" if refit == "validation" and len(chosen.test) else None,
        }
    return described


def _run_identity(recipe: Recipe, data: PreparedData) -> dict[str, Any]:
    """Everything that determines the result of a training, except the processor."""
    return {
        "recipe": dataclasses.asdict(recipe),
        "teacher": data.teacher.card.sha256 if data.teacher else {},
        "rows": data.corpus.streams.fingerprint(),
        "libraries": checkpoint.library_versions(),
        "liveprofile": __version__,
    }


def _init_biases_from_frequencies(
    model: BehaviourTransformer, item_counts: np.ndarray, category_counts: np.ndarray
) -> None:
    """Sets biases to log frequencies, so that training starts from the popularity model."""
    named = slice(1, 1 + len(category_counts))
    with torch.no_grad():
        model.item_bias.copy_(torch.from_numpy(np.log(item_counts / item_counts.sum())))
        if not len(category_counts):  # data without categories
            return
        model.category_bias.fill_(math.log(0.5 / category_counts.sum()))
        share = category_counts / category_counts.sum()
        model.category_bias[named] = torch.from_numpy(np.log(share)).float()
