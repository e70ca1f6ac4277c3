"""A network on a device with little memory, for tests without one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.profile.network import BehaviourTransformer
from models.profile.values.head import ValueCurveHead


class ShortOfMemory(BehaviourTransformer):
    """The weights of a network; raises CUDA's error for calls with more rows than fit.

    most: the number of rows by method. trunk counts positions.
    """

    def __init__(self, network: BehaviourTransformer, **most: int):
        super().__init__(network.shape, network.fusion.modalities)
        self.ranker, self.value_curves = network.ranker, network.value_curves
        self.load_state_dict(network.state_dict())
        self.eval().requires_grad_(False)
        self.most, self.sizes = most, dict[str, list[int]]()  # rows of the calls by method
        if self.value_curves is not None and "value_curves" in most:
            self.value_curves = _ShortCurves(self.value_curves, self)

    def check(self, method: str, rows: int) -> None:
        self.sizes.setdefault(method, []).append(rows)
        if rows > self.most.get(method, rows):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nAdvice")

    def trunk(self, embedding_rows_P7: Tensor, *args: Any) -> Tensor:
        self.check("trunk", len(embedding_rows_P7))
        return super().trunk(embedding_rows_P7, *args)

    def values(self, h_ND: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        self.check("values", len(h_ND))
        return super().values(h_ND, *args)

    def item_logits(self, h_ND: Tensor, *args: Any) -> Tensor:
        self.check("item_logits", len(h_ND))
        return super().item_logits(h_ND, *args)


class _ShortCurves(ValueCurveHead):
    def __init__(self, head: ValueCurveHead, network: ShortOfMemory):
        links = 0 if head.links is None else len(head.links.slope)
        super().__init__(head.first.in_features, len(head.spend_unit), len(head.after_days), links)
        self.load_state_dict(head.state_dict())
        self.eval()
        self._check = network.check  # a bound method, so that the network is no submodule

    def forward(self, input_NX: Tensor) -> Tensor:
        self._check("value_curves", len(input_NX))
        return super().forward(input_NX)
