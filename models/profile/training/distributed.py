"""One training on several processes, as torchrun starts them: each takes its share of every batch.

Every rank draws the same random numbers for the whole batch, and losses are normalised by the whole
batch's targets, so the training is that of one process but for the order in which floats are added.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from liveprofile.errors import InputError
from models.profile.data.examples import Segments


class Ranks(NamedTuple):
    """This process among those that train together, and where it computes."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and prints."""
        return self.rank == 0

    def add(self, value: Tensor) -> Tensor:
        """The sum over all ranks, in place; the same bits on each."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def from_first(self, read: Callable[[], Any]) -> Any:
        """What `read` returns on rank 0. If it raises InputError there, the others just exit."""
        box = [None]
        if self.first:
            try:
                box = [read()]
            except InputError as error:
                box = [error]
        if self.size > 1:
            dist.broadcast_object_list(box)
        if isinstance(box[0], InputError):
            raise box[0] if self.first else SystemExit(box[0].exit_code)
        return box[0]

    def share(self, segments: Segments) -> Segments:
        """Every size-th segment."""
        mine = segments.pick(np.flatnonzero(segments.row_N % self.size == self.rank))
        columns = mine._asdict().items()
        of_rows = {name: x[self.rank :: self.size] for name, x in columns if name[-1] == "B"}
        return mine._replace(row_N=mine.row_N // self.size, **of_rows)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, whose backward passes now average the gradients over the ranks."""
        if self.size == 1:
            return module
        # No buffers: ranks may pass different numbers of batches when they validate.
        return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)


@contextmanager
def ranks(device: str) -> Iterator[Ranks]:
    """`device`: auto, cpu or cuda, there with one card a process. Raises InputError."""
    cuda = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise InputError("device cuda, but torch finds no CUDA card; take auto or cpu")
    local = int(os.environ["LOCAL_RANK"]) if dist.is_torchelastic_launched() else 0
    if cuda and local >= torch.cuda.device_count():
        raise InputError(f"process {local} of this machine has no card; start one for each card")
    if cuda:
        torch.cuda.set_device(local)
    computes = torch.device("cuda", local) if cuda else torch.device("cpu")
    if not dist.is_torchelastic_launched():
        yield Ranks(device=computes)
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    yield Ranks(dist.get_rank(), dist.get_world_size(), computes)
    dist.destroy_process_group()
