"""Compressed forms of a trained model, to compare with it (lab/user_model/model_table.py).

None is trained further. Distillation into a smaller model is the option `--teacher` of the training
(models/profile/training/train.py).

Shapes: N rows, P positions, D model width, K output units, C categories, I items, R table rows,
U hidden units of a block, V kept hidden units.

Sources
    bfloat16                          Kalamkar et al. 2019, arXiv:1905.12322
    int8, dynamic activations         Jacob et al. 2018, arXiv:1712.05877
    pruning hidden units by norm      Li et al. 2017, arXiv:1608.08710
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.profile.encoding import Groups
from models.profile.inference import in_bfloat16
from models.profile.network import BehaviourTransformer, Block

Layer = Callable[[Tensor], Tensor]


class CompressedModel(NamedTuple):
    """A model in eval mode, and the size of its weights in a file."""

    model: BehaviourTransformer
    size_bytes: int


def float32(model: BehaviourTransformer) -> CompressedModel:
    return CompressedModel(model, 4 * _count(model))


def float16_weights(model: BehaviourTransformer) -> CompressedModel:
    """Computes in float32; the model checkpoint stores float16 weights."""
    return CompressedModel(model, 2 * _count(model))


def bfloat16(model: BehaviourTransformer) -> CompressedModel:
    float32_weights = _count(model.ranker) + _count(model.value_curves)
    return CompressedModel(in_bfloat16(model), 2 * _count(model) + 2 * float32_weights)


def bfloat16_outputs(model: BehaviourTransformer) -> CompressedModel:
    """Computes the logits of items and categories in bfloat16, everything else in float32."""

    def layer(rows_KD: Tensor, bias_K: Tensor) -> Layer:
        rows_KD, bias_K = rows_KD.bfloat16(), bias_K.bfloat16()
        return lambda h_ND: F.linear(h_ND.bfloat16(), rows_KD, bias_K).float()

    return CompressedModel(ReplacedOutputLayers(model, layer), 4 * _count(model))


def int8(model: BehaviourTransformer) -> CompressedModel:
    """Matrices in int8 with a scale per row.

    Activations are quantised with one scale per forward pass, so a user's scores depend slightly on
    the other users of the batch.
    """
    compressed = ReplacedOutputLayers(model, _int8_layer)
    compressed.table.copy_(_rounded(model.table))
    compressed.blocks = nn.ModuleList(_Int8Block(block) for block in model.blocks)
    for name in ("item_query", "category_query"):
        query = getattr(model, name)
        setattr(compressed, name, _int8_layer(query.weight, query.bias))
    matrices = [model.table, model.item_query.weight, model.category_query.weight]
    matrices += [weight for block in model.blocks for weight in block.parameters()]
    saved = sum(3 * matrix.numel() - 4 * len(matrix) for matrix in matrices)
    return CompressedModel(compressed, 4 * _count(model) - saved)


def pruned(model: BehaviourTransformer, share: float) -> CompressedModel:
    """Keeps a share of each block's hidden units: those with the largest product of the norms of
    their input and output weights."""
    compressed = copy.deepcopy(model)
    for block in compressed.blocks:
        unit_norm_U = block.up.weight.norm(dim=1) * block.down.weight.norm(dim=0)
        kept_V = unit_norm_U.topk(round(share * len(unit_norm_U))).indices.sort().values
        for layer, weight in (
            (block.up, block.up.weight[kept_V]),
            (block.down, block.down.weight[:, kept_V]),
        ):
            layer.out_features, layer.in_features = weight.shape
            layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    return CompressedModel(compressed, 2 * _count(compressed))


FORMS: dict[str, Callable[[BehaviourTransformer], CompressedModel]] = {
    "float32": float16_weights,
    "bfloat16": bfloat16,
    "bfloat16 outputs": bfloat16_outputs,
    "int8": int8,
    "half the hidden units": partial(pruned, share=0.5),
    "quarter of the hidden units": partial(pruned, share=0.25),
}


class ReplacedOutputLayers(BehaviourTransformer):
    """The model with other layers for the logits of items and categories."""

    def __init__(self, model: BehaviourTransformer, layer: Callable[[Tensor, Tensor], Layer]):
        super().__init__(model.shape, model.fusion.modalities)
        self.ranker, self.value_curves = copy.deepcopy((model.ranker, model.value_curves))
        self.load_state_dict(model.state_dict())
        self.eval().requires_grad_(False)
        self._layer = layer
        self._category_layer = layer(self.table[self._category_rows], self.category_bias)
        self._item_layers: dict[int | None, Layer] = {}  # number of items -> layer

    def category_logits(self, h_ND: Tensor, repeat_counts_NC: Tensor) -> Tensor:
        logits_NC = self._category_layer(self.category_query(h_ND))
        return torch.addcmul(logits_NC, self.repeat_weights(h_ND)[0], repeat_counts_NC)

    def item_logits(self, h_ND: Tensor, items_I: slice = slice(None)) -> Tensor:
        if items_I.stop not in self._item_layers:
            rows_ID, bias_I = self.table[self._item_rows][items_I], self.item_bias[items_I]
            self._item_layers[items_I.stop] = self._layer(rows_ID, bias_I)
        return self._item_layers[items_I.stop](self.item_query(h_ND))


class _Int8Block(Block):
    def __init__(self, block: Block):
        super().__init__(block.qkv.in_features, block.heads)
        for name, linear in block.named_children():
            setattr(self, name, _int8_layer(linear.weight, None))
        self.eval()

    def forward(
        self, x_PD: Tensor, groups: Groups, flat_position_N: Tensor | None = None
    ) -> Tensor:
        width = x_PD.shape[1:]
        mixed_PD = self.attend(self.qkv(F.layer_norm(x_PD, width)), groups)
        if flat_position_N is not None:
            x_PD, mixed_PD = (one.index_select(0, flat_position_N) for one in (x_PD, mixed_PD))
        x_PD = x_PD + self.mix(mixed_PD)
        return x_PD + self.down(torch.relu(self.up(F.layer_norm(x_PD, width))))


def _int8_layer(weight_KD: Tensor, bias_K: Tensor | None) -> nn.Module:
    linear = nn.Linear(*weight_KD.shape[::-1], bias=bias_K is not None)
    linear.weight = nn.Parameter(weight_KD, requires_grad=False)
    if bias_K is not None:
        linear.bias = nn.Parameter(bias_K, requires_grad=False)
    with warnings.catch_warnings():
        # torch.ao is deprecated for torchao, whose int8 on a CPU needs a C++ compiler.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        qconfig = {nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(linear), qconfig)


def _rounded(table_RD: Tensor) -> Tensor:
    """Rounds each row to 255 steps between plus and minus its largest magnitude."""
    step_R1 = table_RD.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return (table_RD / step_R1).round() * step_R1


def _count(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.state_dict().values())
