"""Reads and writes model checkpoints: model.safetensors (float16), vocabulary.json and card.json.

The model card describes the model, its training data and its metrics; `ModelCard` is its schema.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from liveprofile.errors import InputError
from liveprofile.events.modalities import Modality
from liveprofile.resources import sha256
from models.profile.model_card import CARD, VOCABULARY, WEIGHTS, ModelCard
from models.profile.network import BehaviourTransformer, Shape
from models.profile.ranker.network import Ranker
from models.profile.values import ValueCurveHead


def round_weights(model: BehaviourTransformer) -> None:
    """Rounds the weights to float16 in place, so that the measured model is the stored one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())


def save(
    folder: Path, model: BehaviourTransformer, items: list[str], categories: list[str], **card: Any
) -> ModelCard:
    """Writes a checkpoint folder, the card last.

    `card`: the fields of ModelCard except format, shape and sha256.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    (folder / WEIGHTS).write_bytes(to_bytes(weights))
    vocabulary = {"items": items, "categories": categories}
    # ASCII, since an id may hold a lone surrogate, which UTF-8 cannot encode.
    (folder / VOCABULARY).write_text(json.dumps(vocabulary, separators=(",", ":")) + "\n")
    written = ModelCard(
        format=ModelCard.FORMAT,
        shape=model.shape._asdict(),
        sha256={name: sha256(folder / name) for name in (WEIGHTS, VOCABULARY)},
        **card,
    )
    (folder / CARD).write_text(json.dumps(written.model_dump(), indent=1) + "\n")
    return written


def load(folder: Path) -> tuple[BehaviourTransformer, list[str], list[str], ModelCard]:
    """Returns the model in float32 and eval mode, its item and category names, and its card.

    Raises InputError with one line that names the file and the problem.
    """
    card = ModelCard.read(folder)
    verify_files(folder, card.sha256, VOCABULARY, WEIGHTS)
    try:
        shape = Shape(**card.shape)
        modalities = [
            Modality(trial.name, trial.numbers) for trial in card.modalities if trial.kept
        ]
        model = BehaviourTransformer(shape, modalities)
        weights = load_file(folder / WEIGHTS)
        biases = len(weights["ranker.category_bias"]), len(weights["ranker.item_bias"])
        model.ranker = Ranker(*(size - 1 for size in biases))
        knots, inputs = weights["value_curves.after_days"], weights["value_curves.mean"]
        links = len(weights.get("value_curves.links.spend_ratio", ()))
        learned = len(weights["value_curves.horizon_days"]) - links
        model.value_curves = ValueCurveHead(len(inputs), learned, len(knots), links)
        model.load_state_dict(
            {
                name: value.float() if value.is_floating_point() else value
                for name, value in weights.items()
            }
        )
        vocabulary = json.loads((folder / VOCABULARY).read_text())
        items, categories = vocabulary["items"], vocabulary["categories"]
    except (TypeError, RuntimeError, SafetensorError, ValueError, KeyError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        reason = " ".join(reason.split())[:300]
        raise InputError(f"model checkpoint {folder}: {reason}") from None
    problem = ""
    if not model.value_curves.has_valid_days():
        problem = "the days of the value curves are no finite numbers that ascend from 0"
    elif (len(items), len(categories)) != (shape.items, shape.categories):
        problem = f"{len(items)} items and {len(categories)} categories do not fit the card's shape"
    if problem:
        raise InputError(f"model checkpoint {folder}: {problem}; train the model again")
    return model.eval().requires_grad_(False), items, categories, card


def verify_files(folder: Path, sha256_by_name: dict[str, str], *names: str) -> None:
    """Raises InputError for a file that is missing or whose SHA-256 differs from the card's."""
    for name in names:
        if not (folder / name).is_file():
            raise InputError(f"model checkpoint {folder}: {name} is missing")
        if sha256(folder / name) != sha256_by_name.get(name):
            raise InputError(
                f"model checkpoint {folder / name}: not the file that {CARD} describes;"
                " restore both from one checkpoint"
            )


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a model's weights depend on."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }
