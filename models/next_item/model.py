"""The next-item model: a network's scores and those of an item's neighbours, and its files.

A folder: `model.safetensors` (float32, so that what is loaded ranks as what was measured),
`items.json` (the names, in the order of their codes) and `card.json`.
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
from models.next_item.items import Neighbours
from models.next_item.network import NextItem
from models.profile.checkpoint import CARD, WEIGHTS, AnyCard, check_files, sha256, versions

ITEMS = "items.json"
_NETWORK, _NEAR = "network.", "near."


SHAPE = ("dim", "layers", "heads", "max_len", "dropout", "temperature")  # of a recipe


class Card(AnyCard):
    """What every reader of a folder may rely on."""

    FORMAT: ClassVar[int] = 1

    version: str
    recipe: dict[str, Any]
    decay: float  # of the neighbours of an item further back
    weight: float  # of the neighbours' scores
    data: dict[str, Any]
    metrics: dict[str, Any]


def network_of(kind: str, items: int, recipe: dict[str, Any]) -> NextItem:
    return NextItem(kind, items, **{name: recipe[name] for name in SHAPE})


class Model(NamedTuple):
    """A Transformer's score of an item, and `weight` times that of its neighbours."""

    items: list[str]  # the name of each code
    network: NextItem
    neighbours: Neighbours
    weight: float

    def scores(self, histories: list[np.ndarray]) -> np.ndarray:
        """(B, I) of the item after each history, the higher the likelier."""
        near_BI = self.neighbours.scores(histories)
        return self.network.scores(histories) + self.weight * near_BI


def save(folder: Path, model: Model, *, recipe: dict, data: dict, metrics: dict) -> Card:
    """Writes the folder, the card last."""
    folder.mkdir(parents=True, exist_ok=True)
    near_II = model.neighbours.near_II
    network = {_NETWORK + name: value for name, value in model.network.state_dict().items()}
    near = {
        _NEAR + name: torch.from_numpy(getattr(near_II, name))
        for name in ("data", "indices", "indptr")
    }
    save_file(network | near, folder / WEIGHTS)
    (folder / ITEMS).write_text(json.dumps(model.items) + "\n")
    written = {name: sha256(folder / name) for name in (WEIGHTS, ITEMS)}
    card = Card(
        format=Card.FORMAT,
        version=f"next-item-{written[WEIGHTS][:8]}",
        recipe=recipe,
        decay=model.neighbours.decay,
        weight=model.weight,
        data=data,
        metrics=metrics,
        libraries=versions(),
        sha256=written,
    )
    (folder / CARD).write_text(json.dumps(card.model_dump(), indent=1) + "\n")
    return card


def load(folder: Path) -> tuple[Model, Card]:
    """Raises InputError: one line with the file and what is wrong with it."""
    card = Card.read(folder)
    check_files(folder, card.sha256, WEIGHTS, ITEMS)
    try:
        items = json.loads((folder / ITEMS).read_text())
        network = network_of("transformer", len(items), card.recipe)
        weights = load_file(folder / WEIGHTS)
        network.load_state_dict(_part(weights, _NETWORK))
        near = {name: value.numpy() for name, value in _part(weights, _NEAR).items()}
        matrix = (near["data"], near["indices"], near["indptr"])
        near_II = scipy.sparse.csr_matrix(matrix, (len(items), len(items)))
    except (TypeError, RuntimeError, SafetensorError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"model checkpoint {folder}: {reason}") from None
    return Model(items, network.eval(), Neighbours(near_II, card.decay), card.weight), card


def _part(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }
