"""Variants of serving a model checkpoint, to compare their cost and quality.

Shapes: B rows of a batch, P positions, S scored events, D model width, C categories, I items, K
types or top entries, M stored repeat counts of items; 2B are the rows before and after the window.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from lab.user_model import compression
from liveprofile.errors import InputError
from liveprofile.settings import load
from models.profile import checkpoint
from models.profile.inference import ProfileModel
from models.profile.network import BehaviourTransformer
from tests.reference.plain_model import PlainProfileModel

PLAIN_ROWS = 256


class Variant(NamedTuple):
    """A model checkpoint with one way of serving it."""

    served: ProfileModel
    network: BehaviourTransformer
    size_bytes: int  # of its weights in a file


def variants(folders: list[Path]) -> dict[str, Variant]:
    """Returns the variants by name, the reference first.

    Raises InputError for a folder without a checkpoint and for a duplicate version.
    """
    variants_by_name: dict[str, Variant] = {}
    for folder in folders:
        network, items, categories, card = checkpoint.load(folder)
        if f"{card.version} plain" in variants_by_name:
            raise InputError(f"checkpoint {folder}: another has the same version {card.version}")
        serving_defaults = load().model.batch_rows, (6, 8, 10, 12, 16, 20, 24, 32)
        serving_configs = {
            "plain": (
                PlainProfileModel,
                compression.float32,
                PLAIN_ROWS,
                (card.shape["max_len"],),
            ),
            **{
                name: (ProfileModel, make, *serving_defaults)
                for name, make in compression.FORMS.items()
            },
        }
        for name, (model_class, make, rows, buckets) in serving_configs.items():
            compressed = make(network)
            served = model_class(
                compressed.model,
                items,
                categories,
                card.model_dump(),
                device=torch.device("cpu"),
                batch_rows=rows,
                length_buckets=buckets,
            )
            variants_by_name[f"{card.version} {name}"] = Variant(
                served, compressed.model, compressed.size_bytes
            )
    return variants_by_name
