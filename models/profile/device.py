"""Selects the device of a model, a GPU if there is one, and copies to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from liveprofile.errors import InputError

Device = Literal["auto", "cpu", "cuda"]  # the setting model.device


class ModelError(InputError):
    """The device or the model's settings cannot be used."""


def passes(rows: int, max_rows: int) -> Iterator[slice]:
    """Consecutive slices of `rows` rows."""
    return (slice(first, min(rows, first + max_rows)) for first in range(0, rows, max_rows))


def select_device(setting: Device) -> torch.device:
    """Raises ModelError if the setting is cuda and there is no GPU."""
    cuda = setting != "cpu" and torch.cuda.is_available()
    if setting == "cuda" and not cuda:
        raise ModelError("model.device = cuda, but torch finds no CUDA GPU; set it to auto or cpu")
    return torch.device("cuda" if cuda else "cpu")


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copies an array. The copy to a GPU does not wait for the work that the GPU still has."""
    tensor = torch.from_numpy(array)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
