"""The shipped user model as one of the simulated shop of tests/support/streams/shop.py."""

from collections.abc import Sequence
from pathlib import Path

import torch

from liveprofile.events.modalities import Modality
from liveprofile.resources import product_path
from liveprofile.settings import Settings
from models.profile import checkpoint
from models.profile.model_card import ModalityTrial
from models.profile.network import Fusion


def save_shop_model(folder: Path, modalities: Sequence[Modality] = ()) -> Path:
    """Gives the shop's names to items and to the rarest categories, so that windows surprise.

    modalities: have random weights, which change the rank of what has a name.
    """
    network, items, categories, card = checkpoint.load(product_path(Settings().model.checkpoint))
    items[:100] = [f"item-{number}" for number in range(100)]
    categories[-20:] = [f"category-{number}" for number in range(20)]
    network.fusion = Fusion(network.shape.dim, modalities)
    torch.manual_seed(2)
    for weight in network.fusion.weights:
        torch.nn.init.normal_(weight, std=0.5)
    fields = card.model_dump(exclude={"format", "shape", "sha256", "modalities"})
    trials = [
        ModalityTrial(name=modality.name, numbers=modality.numbers, kept=True, metrics={})
        for modality in modalities
    ]
    checkpoint.save(folder, network, items, categories, **fields, modalities=trials)
    return folder
