"""Where a model computes: a card if there is one, the CPU if not."""

from __future__ import annotations

from typing import Literal

import torch

from liveprofile.errors import InputError

Device = Literal["auto", "cpu", "cuda"]  # the setting model.device


class ModelError(InputError):
    """The device or the model's settings can't be used."""


def device_of(wanted: Device) -> torch.device:
    """Raises ModelError for a card that is not there."""
    cuda = wanted != "cpu" and torch.cuda.is_available()
    if wanted == "cuda" and not cuda:
        raise ModelError("model.device = cuda, but torch finds no CUDA card; set it to auto or cpu")
    return torch.device("cuda" if cuda else "cpu")
