"""The shipped user model with other networks, and a comparison of scores."""

from __future__ import annotations

import numpy as np
import torch

from models.profile.inference import ProfileModel, Scores
from models.profile.network import BehaviourTransformer


def profile_model(
    shipped: tuple,
    network: BehaviourTransformer,
    batch_rows: int = 512,
) -> ProfileModel:
    """The checkpoint on the CPU, with another network."""
    _, items, categories, card = shipped
    return ProfileModel(
        network,
        items,
        categories,
        card.model_dump(),
        device=torch.device("cpu"),
        batch_rows=batch_rows,
        length_buckets=(8, 16, 32),
    )


def assert_same(actual: Scores, expected: Scores, tolerance: float) -> None:
    for name, value in actual._asdict().items():
        if name == "value_curves":
            for curve, values in value.values_BHK.items():
                np.testing.assert_allclose(
                    values, expected.value_curves.values_BHK[curve], atol=0.011, err_msg=curve
                )
        elif name != "batches":
            np.testing.assert_allclose(
                value, getattr(expected, name), tolerance, tolerance, err_msg=name
            )
