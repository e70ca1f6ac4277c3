"""Data-parallel training on several processes, as torchrun starts them.

Each process trains on its share of every batch. All ranks draw the same random numbers for the
whole batch, and losses are normalised by the whole batch's targets. The result therefore equals
that of one process, except for the order of floating-point additions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from liveprofile.errors import InputError
from models.profile.data.examples import Sequences

Value = TypeVar("Value")


class ProcessGroup(NamedTuple):
    """This process among those that train together, and its device."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints (rank 0)."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Sums over all ranks in place; the result is bitwise equal on every rank."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def broadcast(self, read: Callable[[], Value]) -> Value:
        """Calls `read` on rank 0 and returns its result on every rank.

        If `read` raises InputError, rank 0 raises it and the other ranks exit with its exit code.
        """
        box: list[Any] = [None]
        if self.is_main:
            try:
                box = [read()]
            except InputError as error:
                box = [error]
        if self.size > 1:
            dist.broadcast_object_list(box)
        if isinstance(box[0], InputError):
            raise box[0] if self.is_main else SystemExit(box[0].exit_code)
        return box[0]

    def shard(self, sequences: Sequences) -> Sequences:
        """This rank's sequences: every size-th one, beginning with the rank-th."""
        tokens = sequences.take(np.flatnonzero(sequences.row_N % self.size == self.rank))
        row_fields = {
            name: column[self.rank :: self.size]
            for name, column in tokens._asdict().items()
            if name[-1] == "B"
        }
        return tokens._replace(row_N=tokens.row_N // self.size, **row_fields)

    def wrap(self, module: nn.Module) -> nn.Module:
        """A module whose backward passes average the gradients over the ranks."""
        if self.size == 1:
            return module
        # Buffers are not broadcast: ranks may run different numbers of validation batches.
        return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)


@contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Joins the processes that torchrun started, or yields a group of one.

    `device`: "auto", "cpu" or "cuda" (one GPU per process). Raises InputError if the device is not
    available.
    """
    cuda = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise InputError("device cuda: torch finds no CUDA GPU; use auto or cpu")
    local_rank = int(os.environ["LOCAL_RANK"]) if dist.is_torchelastic_launched() else 0
    if cuda and local_rank >= torch.cuda.device_count():
        raise InputError(f"process {local_rank} has no GPU; start one process per GPU")
    if cuda:
        torch.cuda.set_device(local_rank)
    torch_device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if not dist.is_torchelastic_launched():
        yield ProcessGroup(device=torch_device)
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    yield ProcessGroup(dist.get_rank(), dist.get_world_size(), torch_device)
    dist.destroy_process_group()
