"""The next-item model (a network plus item neighbours) and its model checkpoint.

A model checkpoint is a folder with `model.safetensors` (float32, so that the loaded model ranks
exactly as the evaluated one), `items.json` (item names in code order) and `card.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import scipy.sparse
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from liveprofile.errors import InputError
from liveprofile.resources import sha256
from models.next_item.count_models import ItemNeighbours
from models.next_item.network import NextItemNetwork
from models.profile.checkpoint import library_versions, verify_files
from models.profile.model_card import CARD, WEIGHTS, BaseCard

ITEMS = "items.json"
# Prefixes of the tensor names in model.safetensors.
_NETWORK, _NEAR = "network.", "near."
# Fields of a recipe that NextItemNetwork takes.
NETWORK_SETTINGS = ("dim", "layers", "heads", "max_len", "dropout", "temperature")


class NextItemCard(BaseCard):
    """The model card of a next-item model checkpoint."""

    FORMAT: ClassVar[int] = 1

    version: str
    recipe: dict[str, Any]
    decay: float  # NeighbourSettings.decay
    weight: float  # of the neighbours' scores
    data: dict[str, Any]
    metrics: dict[str, Any]


def build_network(kind: str, items: int, recipe: dict[str, Any]) -> NextItemNetwork:
    """An untrained network of `kind` "transformer" or "gru"."""
    return NextItemNetwork(kind, items, **{name: recipe[name] for name in NETWORK_SETTINGS})


class NextItemModel(NamedTuple):
    """Scores an item by the network's score plus `weight` times the neighbours' score."""

    items: list[str]  # the name of each code
    network: NextItemNetwork
    neighbours: ItemNeighbours
    weight: float

    def scores(self, histories: list[np.ndarray]) -> np.ndarray:
        """(B, I) scores of the item after each of B histories, higher for likelier items."""
        neighbour_score_BI = self.neighbours.scores(histories)
        return self.network.scores(histories) + self.weight * neighbour_score_BI


def save(
    folder: Path, model: NextItemModel, *, recipe: dict, data: dict, metrics: dict
) -> NextItemCard:
    """Writes the model checkpoint, the card last."""
    folder.mkdir(parents=True, exist_ok=True)
    near_II = model.neighbours.near_II
    network = {_NETWORK + name: value.cpu() for name, value in model.network.state_dict().items()}
    near = {
        _NEAR + name: torch.from_numpy(getattr(near_II, name))
        for name in ("data", "indices", "indptr")
    }
    save_file(network | near, folder / WEIGHTS)
    (folder / ITEMS).write_text(json.dumps(model.items) + "\n")
    hashes = {name: sha256(folder / name) for name in (WEIGHTS, ITEMS)}
    card = NextItemCard(
        format=NextItemCard.FORMAT,
        version=f"next-item-{hashes[WEIGHTS][:8]}",
        recipe=recipe,
        decay=model.neighbours.decay,
        weight=model.weight,
        data=data,
        metrics=metrics,
        libraries=library_versions(),
        sha256=hashes,
    )
    (folder / CARD).write_text(json.dumps(card.model_dump(), indent=1) + "\n")
    return card


def load(folder: Path) -> tuple[NextItemModel, NextItemCard]:
    """Raises InputError naming the file and what is wrong with it."""
    card = NextItemCard.read(folder)
    verify_files(folder, card.sha256, WEIGHTS, ITEMS)
    try:
        items = json.loads((folder / ITEMS).read_text())
        network = build_network("transformer", len(items), card.recipe)
        weights = load_file(folder / WEIGHTS)
        network.load_state_dict(_with_prefix(weights, _NETWORK))
        near = {name: value.numpy() for name, value in _with_prefix(weights, _NEAR).items()}
        matrix = (near["data"], near["indices"], near["indptr"])
        near_II = scipy.sparse.csr_matrix(matrix, (len(items), len(items)))
    except (TypeError, RuntimeError, SafetensorError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"model checkpoint {folder}: {reason}") from None
    neighbours = ItemNeighbours(near_II, card.decay)
    return NextItemModel(items, network.eval(), neighbours, card.weight), card


def _with_prefix(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The weights whose names have the prefix, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }
