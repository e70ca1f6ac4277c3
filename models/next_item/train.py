"""Trains what proposes the next item, and the baselines beside it.

The model is a Transformer whose score is added to that of an item's neighbours: the one knows the
order of a whole history, the other the rare pairs that no network of this size remembers. All that
is chosen (the epoch, the neighbours' settings, the weight of their sum) is chosen by NDCG@10 on the
validation items; the test items are ranked once.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from liveprofile.progress import Progress
from models.next_item.data import (
    MAX_LEN,
    Part,
    Ranking,
    Sequences,
    held_out,
    measure,
    ranks,
    training,
)
from models.next_item.items import Counts, Neighbours, Popularity, Settings
from models.next_item.model import Model, load, network_of, save
from models.next_item.network import NextItem, pack, sampled_softmax

NEIGHBOURS = [
    Settings(discount, shrink, decay)
    for discount, shrink, decay in itertools.product((0.5, 0.6, 0.7), (0.0, 3.0), (0.5, 0.7, 0.9))
]
WEIGHTS = (0.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)  # of the neighbours' score


@dataclass(frozen=True)
class Recipe:
    """Chosen on Amazon Beauty's validation items; no data set has one of its own."""

    dim: int = 128
    layers: int = 2
    heads: int = 2
    max_len: int = MAX_LEN
    dropout: float = 0.5
    temperature: float = 0.06
    negatives: int = 1_024
    batch_users: int = 128
    learning_rate: float = 1e-3
    warm_up_steps: int = 200
    clip_norm: float = 5.0
    epochs: int = 60
    validate_every: int = 2  # epochs
    patience: int = 5  # validations without a better one
    seed: int = 20200824


class Scorer(Protocol):
    def scores(self, histories: list[np.ndarray]) -> np.ndarray:
        """(B, I) of the item after each history, the higher the likelier."""


class Trained(NamedTuple):
    network: NextItem
    validation: Ranking
    curve: list[dict[str, float]]  # epoch, loss, validation's NDCG@10


def train(
    data: Sequences,
    recipe: Recipe = Recipe(),
    out: Path | None = None,
    on_progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """The report: `test` and `validation` of the model, and the same of each baseline.

    out: the folder to write the model to
    """
    torch.set_num_threads(os.cpu_count() or 1)
    histories, items = training(data), len(data.items)
    validation = held_out(data, "validation")

    counts = Counts.of(histories, items)
    found: dict[Settings, float] = {}
    for number, candidate in enumerate(NEIGHBOURS, 1):
        found[candidate] = _measured(Neighbours.of(counts, candidate), validation).ndcg_at_10
        on_progress("neighbours", number, len(NEIGHBOURS))
    settings = max(found, key=found.__getitem__)
    neighbours = Neighbours.of(counts, settings)

    trained = {
        kind: train_network(
            kind, data, recipe, lambda epoch, kind=kind: on_progress(kind, epoch, recipe.epochs)
        )
        for kind in ("transformer", "gru")
    }
    network = trained["transformer"].network
    weight = _best_weight(network, neighbours, validation)
    model = Model(data.items, network, neighbours, weight)
    report = {
        name: measures(scorer, data)
        for name, scorer in {
            "model": model,
            "popularity": Popularity(histories, items),
            "item_neighbours": neighbours,
            "gru4rec": trained["gru"].network,
            "transformer_alone": network,
        }.items()
    }
    found = report.pop("model")
    about = {"users": len(held_out(data, "test").target_B), "items": items}
    about["events"] = len(data.item_N)
    if out is not None:
        about_data = about | {"fingerprint": data.fingerprint()}
        save(out, model, recipe=asdict(recipe), data=about_data, metrics=found)
    return {
        **about,
        "settings": asdict(recipe) | {"neighbours": settings._asdict(), "weight": weight},
        "curves": {kind: one.curve for kind, one in trained.items()},
        **found,
        "baselines": report,
    }


def measures(scorer: Scorer, data: Sequences) -> dict[str, dict[str, float]]:
    """Of both held-out items of each user."""
    return {
        part: _measured(scorer, held_out(data, part))._asdict() for part in ("validation", "test")
    }


def evaluate(folder: Path, data: Sequences) -> dict[str, Any]:
    """The measures of a saved model. Raises InputError for items that it does not know."""
    model, card = load(folder)
    known = data.as_codes_of(model.items)
    return {
        "version": card.version,
        "same_data": known.fingerprint() == card.data["fingerprint"],
        **measures(model, known),
    }


def train_network(
    kind: str, data: Sequences, recipe: Recipe, on_epoch: Callable[[int], None]
) -> Trained:
    """Stops when validation no longer improves; the network is that of the best epoch."""
    torch.manual_seed(recipe.seed)
    random = np.random.default_rng(recipe.seed)
    network = network_of(kind, len(data.items), asdict(recipe))
    optimizer = torch.optim.Adam(network.parameters(), recipe.learning_rate, betas=(0.9, 0.98))
    warm_up = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / recipe.warm_up_steps)
    )
    histories = [history[-recipe.max_len - 1 :] for history in training(data)]
    validation = held_out(data, "validation")
    best, best_weights, best_epoch, curve = None, {}, 0, []
    for epoch in range(1, recipe.epochs + 1):
        network.train()
        losses = []
        order = random.permutation(len(histories))
        for first in range(0, len(order), recipe.batch_users):
            chosen = [histories[index] for index in order[first : first + recipe.batch_users]]
            negatives = random.integers(0, len(data.items), recipe.negatives)
            loss = _loss(network, chosen, torch.from_numpy(negatives))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
            optimizer.step()
            warm_up.step()
            losses.append(loss.item())
        on_epoch(epoch)
        if epoch % recipe.validate_every and epoch != recipe.epochs:
            continue
        network.eval()
        found = _measured(network, validation)
        curve.append(
            {"epoch": epoch, "loss": float(np.mean(losses)), "ndcg_at_10": found.ndcg_at_10}
        )
        if best is None or found.ndcg_at_10 > best.ndcg_at_10:
            best, best_epoch = found, epoch
            best_weights = {name: value.clone() for name, value in network.state_dict().items()}
        elif epoch - best_epoch >= recipe.patience * recipe.validate_every:
            break
    network.load_state_dict(best_weights)
    return Trained(network.eval(), best, curve)


def _loss(
    network: NextItem, histories: list[np.ndarray], negatives_K: torch.Tensor
) -> torch.Tensor:
    """Every item but the first is predicted from those before it."""
    packed = pack([history[:-1] for history in histories])
    place_S = torch.from_numpy(packed.place_N)
    target_S = torch.from_numpy(np.concatenate([history[1:] for history in histories]).astype(int))
    return sampled_softmax(network, network.states(packed)[place_S], target_S, negatives_K)


def _best_weight(network: NextItem, neighbours: Neighbours, validation: Part) -> float:
    def value(weight: float) -> float:
        return _measured(Model([], network, neighbours, weight), validation).ndcg_at_10

    return max(WEIGHTS, key=value)


def _measured(scorer: Scorer, part: Part) -> Ranking:
    return measure(ranks(part, scorer.scores))
