"""The next-item model (a network combined with pair counts) and its model checkpoint.

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

from lab.next_item.combination import DISTANCES, SCORES, PairScores
from lab.next_item.network import NextItemNetwork
from liveprofile.errors import InputError
from liveprofile.resources import sha256
from models.profile.checkpoint import library_versions, verify_files
from models.profile.model_card import CARD, WEIGHTS, BaseCard

ITEMS = "items.json"
# Names in model.safetensors: a prefix, a tensor, and the parts of each pair matrix.
_NETWORK, _POPULARITY = "network.", "log_popularity"
_CSR_PARTS = ("data", "indices", "indptr")
# Fields of a recipe that NextItemNetwork takes.
NETWORK_SETTINGS = ("dim", "hidden", "layers", "max_len", "dropout", "temperature")


class NextItemCard(BaseCard):
    """The model card of a next-item model checkpoint."""

    FORMAT: ClassVar[int] = 2

    version: str
    recipe: dict[str, Any]
    weights: dict[str, float]  # of combination.SCORES
    data: dict[str, Any]
    metrics: dict[str, Any]


def build_network(items: int, recipe: dict[str, Any]) -> NextItemNetwork:
    """An untrained network."""
    return NextItemNetwork(items, **{name: recipe[name] for name in NETWORK_SETTINGS})


class NextItemModel(NamedTuple):
    items: list[str]  # the name of each code
    network: NextItemNetwork
    pairs: PairScores
    weight_F: np.ndarray  # float32, in the order of SCORES

    def scores(self, histories: list[np.ndarray]) -> np.ndarray:
        """(B, I) scores of the item after each of B histories, higher for likelier items."""
        return self.pairs.combine(
            self.weight_F, self.network.scores(histories), self.pairs.of(histories)
        )


def save(
    folder: Path, model: NextItemModel, *, recipe: dict, data: dict, metrics: dict
) -> NextItemCard:
    """Writes the model checkpoint, the card last."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_NETWORK + name: value.cpu() for name, value in model.network.state_dict().items()}
    tensors[_POPULARITY] = torch.from_numpy(model.pairs.log_popularity_I2)
    for name, following_II in model.pairs.following.items():
        for part in _CSR_PARTS:
            tensors[f"{name}.{part}"] = torch.from_numpy(getattr(following_II, part))
    save_file(tensors, folder / WEIGHTS)
    (folder / ITEMS).write_text(json.dumps(model.items) + "\n")
    hashes = {name: sha256(folder / name) for name in (WEIGHTS, ITEMS)}
    card = NextItemCard(
        format=NextItemCard.FORMAT,
        version=f"next-item-{hashes[WEIGHTS][:8]}",
        recipe=recipe,
        weights=dict(zip(SCORES, model.weight_F.tolist(), strict=True)),
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
        network = build_network(len(items), card.recipe)
        weights = load_file(folder / WEIGHTS)
        network.load_state_dict(
            {
                name.removeprefix(_NETWORK): value
                for name, value in weights.items()
                if name.startswith(_NETWORK)
            }
        )
        following = {
            name: scipy.sparse.csr_matrix(
                tuple(weights[f"{name}.{part}"].numpy() for part in _CSR_PARTS),
                (len(items), len(items)),
            )
            for name in DISTANCES
        }
        pairs = PairScores(following, weights[_POPULARITY].numpy())
        weight_F = np.array([card.weights[name] for name in SCORES], np.float32)
    except (TypeError, RuntimeError, SafetensorError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"model checkpoint {folder}: {reason}") from None
    return NextItemModel(items, network.eval(), pairs, weight_F), card
