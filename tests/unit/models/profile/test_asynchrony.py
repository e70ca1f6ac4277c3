"""A pass is encoded and started before the result of the one before it is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models.profile.network import BehaviourTransformer
from tests.unit.models.profile.shipped import profile_model

# What makes the CPU wait for a GPU.
WAITS = {
    Tensor.cpu,
    Tensor.numpy,
    Tensor.item,
    Tensor.tolist,
    Tensor.nonzero,
    Tensor.__bool__,
    Tensor.__int__,
    Tensor.__float__,
    Tensor.__index__,
    torch.masked_select,
    torch.nonzero,
}


class RecordsPasses(BehaviourTransformer):
    def __init__(self, network: BehaviourTransformer, events: list[str]):
        super().__init__(network.shape, network.fusion.modalities)
        self.ranker, self.value_curves = network.ranker, network.value_curves
        self.load_state_dict(network.state_dict())
        self.eval().requires_grad_(False)
        self._events = events

    def trunk(self, *args: Any) -> Tensor:
        self._events.append("pass")
        return super().trunk(*args)


class RecordsWaits(TorchFunctionMode):
    def __init__(self, events: list[str]):
        super().__init__()
        self._events = events

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: Any = None
    ) -> Any:
        if func in WAITS:
            self._events.append("wait")
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
def test_all_passes_start_before_the_first_result_is_read(
    shipped: tuple, shipped_inputs: tuple
) -> None:
    events: list[str] = []
    model = profile_model(shipped, RecordsPasses(shipped[0], events), batch_rows=32)
    with RecordsWaits(events):
        model.score(*shipped_inputs)
    assert events.index("wait") == events.count("pass") > 4
