"""Trains the next-item model and its baseline models.

The model combines a network's score with counts of item pairs. The network uses the order of a
whole history; the counts cover rare pairs that a network of this size does not learn, and the
direction of a pair. The network starts from item vectors that the same counts give, so that few
epochs suffice. NDCG@10 on the validation items selects the epoch, their cross-entropy the weights
of the combination; of more than CHOOSING_USERS users, a sample chooses. The test items are ranked
once, at the end.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lab.next_item.combination import SCORES, PairScores, fit_weights
from lab.next_item.count_models import (
    CoOccurrenceCounts,
    ItemNeighbours,
    NeighbourSettings,
    Popularity,
)
from lab.next_item.data import (
    MAX_LEN,
    HeldOutItems,
    NextItemMetrics,
    Scorer,
    SequenceDataset,
    held_out_items,
    ranking_metrics,
    sample,
    target_ranks,
    training_histories,
)
from lab.next_item.model import NextItemModel, build_network, load, save
from lab.next_item.network import NextItemNetwork, pack, sampled_softmax_loss
from lab.next_item.spectral_vectors import spectral_vectors
from liveprofile.progress import Progress
from models.profile.device import Device, select_device

NEIGHBOUR_GRID = [
    NeighbourSettings(discount, shrink, decay)
    for discount, shrink, decay in itertools.product((0.5, 0.6, 0.7), (0.0, 3.0), (0.5, 0.7, 0.9))
]
# For the item vectors that the network starts from: symmetric, and robust to items with few counts.
SPECTRAL_SETTINGS = NeighbourSettings(discount=0.5, shrink=3.0, decay=1.0)
CPU = torch.device("cpu")
CHOOSING_USERS = 25_000  # users whose validation items choose


@dataclass(frozen=True)
class NextItemRecipe:
    """Hyperparameters, tuned on the validation items of Amazon Beauty and used for all data."""

    dim: int = 512
    hidden: int = 128
    layers: int = 1
    max_len: int = MAX_LEN
    dropout: float = 0.5
    temperature: float = 0.06
    negatives: int = 1_024
    batch_users: int = 512
    learning_rate: float = 2e-3
    warm_up_steps: int = 20
    clip_norm: float = 5.0
    epochs: int = 8
    validate_every: int = 2  # epochs
    seed: int = 20200824


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
    trained = train_network(
        data, recipe, lambda epoch: on_progress("network", epoch, recipe.epochs), on
    )
    network = trained.network
    pairs = PairScores.from_histories(histories, items)
    weight_F = fit_weights(network, pairs, validation)
    model = NextItemModel(data.items, network, pairs, weight_F)
    metrics = evaluate_scorer(model, data)
    baseline_metrics = {
        name: evaluate_scorer(scorer, data)
        for name, scorer in {
            "popularity": Popularity(histories, items),
            "item_neighbours": neighbours,
            "network_alone": network,
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
        "settings": asdict(recipe) | {"neighbours": settings._asdict()},
        "weights": dict(zip(SCORES, weight_F.tolist(), strict=True)),
        "curve": trained.curve,
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
    data: SequenceDataset,
    recipe: NextItemRecipe,
    on_epoch: Callable[[int], None],
    device: torch.device = CPU,
) -> TrainedNetwork:
    """The network of the epoch with the best validation NDCG@10."""
    torch.manual_seed(recipe.seed)
    random = np.random.default_rng(recipe.seed)
    network = build_network(len(data.items), asdict(recipe))
    counts = CoOccurrenceCounts.from_histories(training_histories(data), len(data.items))
    near_II = ItemNeighbours.from_counts(counts, SPECTRAL_SETTINGS).near_II
    network.set_item_vectors(spectral_vectors(near_II, recipe.dim, recipe.seed))
    network.to(device)
    optimizer = torch.optim.Adam(
        network.parameters(), recipe.learning_rate, betas=(0.9, 0.98), fused=True
    )
    histories = [history[-recipe.max_len - 1 :] for history in training_histories(data)]
    steps = recipe.epochs * math.ceil(len(histories) / recipe.batch_users)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / recipe.warm_up_steps, 1 - step / steps)
    )
    validation = sample(held_out_items(data, "validation"), CHOOSING_USERS, recipe.seed)
    best, best_weights, curve = None, {}, []
    for epoch in range(1, recipe.epochs + 1):
        network.train()
        losses = []
        order = random.permutation(len(histories))
        for first in range(0, len(order), recipe.batch_users):
            batch = [histories[index] for index in order[first : first + recipe.batch_users]]
            negatives = random.integers(0, len(data.items), recipe.negatives)
            optimizer.zero_grad(set_to_none=True)
            with _bfloat16_products():
                loss = _loss(network, batch, network.on_device(negatives))
                loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
            optimizer.step()
            schedule.step()
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
            best = metrics
            best_weights = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(best_weights)
    return TrainedNetwork(network.eval(), best, curve)


@contextmanager
def _bfloat16_products() -> Iterator[None]:
    """Lets processors with such instructions multiply float32 matrices in bfloat16."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


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


def _evaluate(scorer: Scorer, held_out: HeldOutItems) -> NextItemMetrics:
    return ranking_metrics(target_ranks(held_out, scorer.scores))
