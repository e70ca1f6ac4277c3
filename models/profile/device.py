"""Selects the device of a model, a GPU if there is one, copies to it, and times passes on it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Literal, NamedTuple

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


class BatchTime(NamedTuple):
    """Duration of one forward pass, for metrics. `length`: of its longest padded sequence."""

    rows: int
    length: int
    milliseconds: float


class BatchTimer:
    """Times one forward pass. On a GPU it records CUDA events, which do not block the stream."""

    def __init__(self, device: torch.device, rows: int, length: int):
        self._rows, self._length = rows, length
        self._events = None
        if device.type == "cuda":
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self._events[0].record()
        self._started_s = time.perf_counter()
        self._milliseconds = 0.0

    def stop(self) -> None:
        if self._events:
            self._events[1].record()
        else:
            self._milliseconds = 1000 * (time.perf_counter() - self._started_s)

    def read(self) -> BatchTime:
        if self._events:
            self._events[1].synchronize()
            self._milliseconds = self._events[0].elapsed_time(self._events[1])
        return BatchTime(self._rows, self._length, self._milliseconds)
