"""Selects the device of a model: a GPU if there is one, else the CPU."""

from __future__ import annotations

from typing import Literal

import torch

from liveprofile.errors import InputError

Device = Literal["auto", "cpu", "cuda"]  # the setting model.device


class ModelError(InputError):
    """The device or the model's settings cannot be used."""


def select_device(setting: Device) -> torch.device:
    """Raises ModelError if the setting is cuda and there is no GPU."""
    cuda = setting != "cpu" and torch.cuda.is_available()
    if setting == "cuda" and not cuda:
        raise ModelError("model.device = cuda, but torch finds no CUDA GPU; set it to auto or cpu")
    return torch.device("cuda" if cuda else "cpu")
