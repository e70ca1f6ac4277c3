"""Trains the next-item model and its baseline models.

The model adds the score of a Transformer to that of item neighbours. The Transformer uses the order
of a whole history; the neighbours cover rare item pairs that a network of this size does not learn.
NDCG@10 on the validation items selects the epoch, the neighbour settings and the weight of the
neighbours' score; of more than CHOOSING_USERS users, a sample chooses. The test items are ranked
once, at the end.
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
from models.next_item.count_models import (
    CoOccurrenceCounts,
    ItemNeighbours,
    NeighbourSettings,
    Popularity,
)
from models.next_item.data import (
    MAX_LEN,
    HeldOutItems,
    NextItemMetrics,
    SequenceDataset,
    held_out_items,
    ranking_metrics,
    sample,
    target_ranks,
    training_histories,
)
from models.next_item.model import NextItemModel, build_network, load, save
from models.next_item.network import NextItemNetwork, pack, sampled_softmax_loss
from models.profile.device import Device, select_device

NEIGHBOUR_GRID = [
    NeighbourSettings(discount, shrink, decay)
    for discount, shrink, decay in itertools.product((0.5, 0.6, 0.7), (0.0, 3.0), (0.5, 0.7, 0.9))
]
NEIGHBOUR_WEIGHTS = (0.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)  # of the neighbours' score
CPU = torch.device("cpu")
CHOOSING_USERS = 25_000  # users whose validation items choose


@dataclass(frozen=True)
class NextItemRecipe:
    """Hyperparameters, tuned on the validation items of Amazon Beauty and used for all data."""

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
    patience: int = 5  # validations without improvement
    seed: int = 20200824


class Scorer(Protocol):
    """A model that scores every item as the next one of a history."""

    def scores(self, histories: list[np.ndarray]) -> np.ndarray:
        """(B, I) scores of the item after each of B histories, higher for likelier items."""


class TrainedNetwork(NamedTuple):
    network: NextItemNetwork  # with the weights of the best epoch
    validation: NextItemMetrics
    curve: list[dict[str, float]]  # epoch, training loss, validation NDCG@10


def train(
    data: SequenceDataset,
    recipe: NextItemRecipe = NextItemRecipe(),
    out: Path | None = None,
    on_progress: Progress = lambda stage, done, total: None,
    device: Device = "cpu",
) -> dict[str, Any]:
    """Trains the model and its baseline models, and returns the report.

    The report has the `validation` and `test` metrics of the model and of each baseline model. The
    model checkpoint is written to the folder `out` if there is one. `device` is that of the
    networks. Raises ModelError if it is cuda and there is no GPU.
    """
    on = select_device(device)
    torch.set_num_threads(os.cpu_count() or 1)
    histories, items = training_histories(data), len(data.items)
    validation = sample(held_out_items(data, "validation"), CHOOSING_USERS, recipe.seed)

    settings, neighbours = _tune_neighbours(histories, items, validation, on_progress)
    trained = {
        kind: train_network(
            kind, data, recipe, lambda epoch, kind=kind: on_progress(kind, epoch, recipe.epochs), on
        )
        for kind in ("transformer", "gru")
    }
    network = trained["transformer"].network
    weight = _best_neighbour_weight(network, neighbours, validation)
    model = NextItemModel(data.items, network, neighbours, weight)
    metrics = evaluate_scorer(model, data)
    baseline_metrics = {
        name: evaluate_scorer(scorer, data)
        for name, scorer in {
            "popularity": Popularity(histories, items),
            "item_neighbours": neighbours,
            "gru4rec": trained["gru"].network,
            "transformer_alone": network,
        }.items()
    }
    sizes = {
        "users": len(held_out_items(data, "test").target_B),
        "items": items,
        "events": len(data.item_N),
    }
    if out is not None:
        card_data = sizes | {"fingerprint": data.fingerprint()}
        save(out, model, recipe=asdict(recipe), data=card_data, metrics=metrics)
    return {
        **sizes,
        "settings": asdict(recipe) | {"neighbours": settings._asdict(), "weight": weight},
        "curves": {kind: result.curve for kind, result in trained.items()},
        **metrics,
        "baselines": baseline_metrics,
    }


def evaluate_scorer(scorer: Scorer, data: SequenceDataset) -> dict[str, dict[str, float]]:
    """The metrics on the validation and on the test items."""
    return {
        split: _evaluate(scorer, held_out_items(data, split))._asdict()
        for split in ("validation", "test")
    }


def evaluate(folder: Path, data: SequenceDataset) -> dict[str, Any]:
    """The metrics of a saved model. Raises InputError for items that the model does not know."""
    model, card = load(folder)
    recoded = data.recode(model.items)
    return {
        "version": card.version,
        "same_data": recoded.fingerprint() == card.data["fingerprint"],
        **evaluate_scorer(model, recoded),
    }


def train_network(
    kind: str,
    data: SequenceDataset,
    recipe: NextItemRecipe,
    on_epoch: Callable[[int], None],
    device: torch.device = CPU,
) -> TrainedNetwork:
    """Trains until the validation NDCG@10 stops improving, and returns the best epoch's network."""
    torch.manual_seed(recipe.seed)
    random = np.random.default_rng(recipe.seed)
    network = build_network(kind, len(data.items), asdict(recipe)).to(device)
    optimizer = torch.optim.Adam(network.parameters(), recipe.learning_rate, betas=(0.9, 0.98))
    warm_up = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / recipe.warm_up_steps)
    )
    histories = [history[-recipe.max_len - 1 :] for history in training_histories(data)]
    validation = sample(held_out_items(data, "validation"), CHOOSING_USERS, recipe.seed)
    best, best_weights, best_epoch, curve = None, {}, 0, []
    for epoch in range(1, recipe.epochs + 1):
        network.train()
        losses = []
        order = random.permutation(len(histories))
        for first in range(0, len(order), recipe.batch_users):
            batch = [histories[index] for index in order[first : first + recipe.batch_users]]
            negatives = random.integers(0, len(data.items), recipe.negatives)
            loss = _loss(network, batch, network.on_device(negatives))
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
        metrics = _evaluate(network, validation)
        curve.append(
            {"epoch": epoch, "loss": float(np.mean(losses)), "ndcg_at_10": metrics.ndcg_at_10}
        )
        if best is None or metrics.ndcg_at_10 > best.ndcg_at_10:
            best, best_epoch = metrics, epoch
            best_weights = {name: value.clone() for name, value in network.state_dict().items()}
        elif epoch - best_epoch >= recipe.patience * recipe.validate_every:
            break
    network.load_state_dict(best_weights)
    return TrainedNetwork(network.eval(), best, curve)


def _loss(
    network: NextItemNetwork, histories: list[np.ndarray], negatives_K: torch.Tensor
) -> torch.Tensor:
    """Predicts every item of each history except the first from the items before it."""
    packed = pack([history[:-1] for history in histories])
    index_S = network.on_device(packed.index_N)
    target_S = network.on_device(np.concatenate([each[1:] for each in histories]).astype(int))
    return sampled_softmax_loss(network, network.states(packed)[index_S], target_S, negatives_K)


def _tune_neighbours(
    histories: list[np.ndarray], items: int, validation: HeldOutItems, on_progress: Progress
) -> tuple[NeighbourSettings, ItemNeighbours]:
    """The settings of NEIGHBOUR_GRID with the best validation NDCG@10, and their model."""
    counts = CoOccurrenceCounts.from_histories(histories, items)
    ndcg: dict[NeighbourSettings, float] = {}
    for number, candidate in enumerate(NEIGHBOUR_GRID, 1):
        neighbours = ItemNeighbours.from_counts(counts, candidate)
        ndcg[candidate] = _evaluate(neighbours, validation).ndcg_at_10
        on_progress("neighbours", number, len(NEIGHBOUR_GRID))
    settings = max(ndcg, key=ndcg.__getitem__)
    return settings, ItemNeighbours.from_counts(counts, settings)


def _best_neighbour_weight(
    network: NextItemNetwork, neighbours: ItemNeighbours, validation: HeldOutItems
) -> float:
    def ndcg(weight: float) -> float:
        return _evaluate(NextItemModel([], network, neighbours, weight), validation).ndcg_at_10

    return max(NEIGHBOUR_WEIGHTS, key=ndcg)


def _evaluate(scorer: Scorer, held_out: HeldOutItems) -> NextItemMetrics:
    return ranking_metrics(target_ranks(held_out, scorer.scores))
