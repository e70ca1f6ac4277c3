"""The behaviour Transformer: a causal trunk over one user's events, and its heads.

Shape suffixes
    B rows (one user and window each)      P flat positions: sequences laid end to end
    T positions of a padded sequence       N any number of positions picked out of P
    D model width   H heads   E width of a head   F fields of a token   C categories   I items

Sources
    causal self-attention      Vaswani et al. 2017, arXiv:1706.03762
    on behaviour sequences     Kang and McAuley 2018 (SASRec), arXiv:1808.09781
    pre-norm residual blocks   Xiong et al. 2020, arXiv:2002.04745
    layer norm without affine  Xu et al. 2019, arXiv:1911.07013
    tied input/output rows     Press and Wolf 2017, arXiv:1608.05859
    churn and spend in one     Wang et al. 2019 (zero-inflated log-normal), arXiv:1912.07753
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encode import BOS_TYPE, Layout

Groups = list[tuple[int, int, int]]  # first position, rows, length: see encode.Batch


class Shape(NamedTuple):
    """All that decides the sizes of the parameters."""

    items: int  # named ones; row 0 and the hash buckets come on top
    item_buckets: int
    categories: int
    category_buckets: int
    dim: int = 32
    layers: int = 2
    heads: int = 2
    max_len: int = 32

    @property
    def category_rows(self) -> int:
        return 1 + self.categories + self.category_buckets

    @property
    def layout(self) -> Layout:
        return Layout.of(1 + self.items + self.item_buckets, self.category_rows, self.max_len)


class Block(nn.Module):
    """Attention, then a two-layer perceptron, each added to the stream x_PD."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.mix = nn.Linear(dim, dim, bias=False)
        self.up = nn.Linear(dim, 4 * dim, bias=False)
        self.down = nn.Linear(4 * dim, dim, bias=False)

    def attend(self, qkv_P3D: Tensor, groups: Groups) -> Tensor:
        """Each position sees itself and those before it, so padding on the right needs no mask."""
        dim = qkv_P3D.shape[1] // 3
        dropout = self.dropout if self.training else 0.0
        parts = []
        for start, rows, length in groups:
            group = qkv_P3D[start : start + rows * length]
            qkv_3BHTE = group.view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            mixed_BHTE = F.scaled_dot_product_attention(
                *qkv_3BHTE.unbind(0), dropout_p=dropout, is_causal=True
            )
            parts.append(mixed_BHTE.transpose(1, 2).reshape(rows * length, dim))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def forward(self, x_PD: Tensor, groups: Groups, place_N: Tensor | None = None) -> Tensor:
        """(P, D), or (N, D) at `place_N`: behind the attention the positions go their own ways."""
        width = x_PD.shape[1:]
        mixed_PD = self.attend(self.qkv(F.layer_norm(x_PD, width)), groups)
        if place_N is not None:
            x_PD, mixed_PD = x_PD[place_N], mixed_PD[place_N]
        if self.dropout and self.training:
            x_PD = x_PD + F.dropout(self.mix(mixed_PD), self.dropout)
            hidden_PD = torch.relu(self.up(F.layer_norm(x_PD, width)))
            down_PD = self.down(F.dropout(hidden_PD, self.dropout))
            return x_PD + F.dropout(down_PD, self.dropout)
        x_PD = torch.addmm(x_PD, mixed_PD, self.mix.weight.t())
        hidden_PD = torch.relu_(self.up(F.layer_norm(x_PD, width)))
        return torch.addmm(x_PD, hidden_PD, self.down.weight.t())


class BehaviourTransformer(nn.Module):
    """Trunk and heads. Parameters are float32 unless cast; nothing here knows of devices."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        layout, dim = shape.layout, shape.dim
        self.table = nn.Parameter(torch.empty(layout.rows, dim))
        self.blocks = nn.ModuleList(Block(dim, shape.heads) for _ in range(shape.layers))
        # One query each, so that the tied rows need not serve three tasks from one direction.
        self.item_query = nn.Linear(dim, dim, bias=False)
        self.category_query = nn.Linear(dim, dim, bias=False)
        self.item_bias = nn.Parameter(torch.zeros(shape.items))
        self.category_bias = nn.Parameter(torch.zeros(shape.category_rows))
        self.type_head = nn.Linear(dim, BOS_TYPE)
        self.value_head = nn.Linear(dim, 3)
        self._item_rows = slice(layout.item + 1, layout.item + 1 + shape.items)
        self._category_rows = slice(layout.category, layout.category + shape.category_rows)
        self.reset()

    def reset(self) -> None:
        """Initialises: residual branches start at zero, as in GPT-2's descendants."""
        nn.init.normal_(self.table, std=0.05)
        for block in self.blocks:
            nn.init.zeros_(block.mix.weight)
            nn.init.zeros_(block.down.weight)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def trunk(self, features_PF: Tensor, groups: Groups, place_N: Tensor | None = None) -> Tensor:
        """features_PF: rows of the table. Returns h_PD, layer-normed; h_ND of `place_N` alone if
        that is all that is read of it."""
        x_PD = F.embedding_bag(features_PF, self.table, mode="sum")
        *blocks, last = self.blocks
        for block in blocks:
            x_PD = block(x_PD, groups)
        x_PD = last(x_PD, groups, place_N)
        return F.layer_norm(x_PD, x_PD.shape[1:])

    def category_logits(self, h_ND: Tensor) -> Tensor:
        """(N, C) over row 0 (unknown), the named categories and the hash buckets."""
        rows_CD = self.table[self._category_rows]
        return F.linear(self.category_query(h_ND), rows_CD, self.category_bias)

    def type_logits(self, h_ND: Tensor) -> Tensor:
        """(N, types) in the order of udfs.events.EVENT_TYPES."""
        return self.type_head(h_ND)

    def item_logits(self, h_ND: Tensor, items_I: Tensor | None = None) -> Tensor:
        """(N, I) over the named items, or over `items_I` of them (0-based)."""
        rows_ID, bias_I = self.table[self._item_rows], self.item_bias
        if items_I is not None:
            rows_ID, bias_I = rows_ID[items_I], bias_I[items_I]
        return F.linear(self.item_query(h_ND), rows_ID, bias_I)

    def values(self, h_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Churn logit, and mean and spread (> 0) of the log of what is spent if anything is."""
        churn_N, log_mean_N, raw_N = self.value_head(h_ND).float().unbind(1)
        return churn_N, log_mean_N, F.softplus(raw_N + 0.5413) + 0.1  # 1.1 at the start


def expected_spend(churn_N: Tensor, log_mean_N: Tensor, log_std_N: Tensor) -> Tensor:
    """Mean of the zero-inflated log-normal: currency, >= 0. `churn_N` is a probability."""
    # Bounded, since one exploding exponent would swamp every average built on it.
    exponent_N = (log_mean_N + 0.5 * log_std_N.square()).clamp(max=20.0)
    return (1 - churn_N) * exponent_N.exp()


def top_k(scores_NC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Exactly torch.topk(scores_NC, k), at less cost for wide rows.

    A row's k best lie in the k columns with the best maxima of the row folded into `folds` lines,
    so only those are sorted. Ties may come in another order.
    """
    width = scores_NC.shape[1]
    folds = 64 if width >= 2048 else 8
    if width < 4 * folds or width // folds < k:
        return tuple(scores_NC.topk(min(k, width)))
    columns = width // folds
    folded_NFC = scores_NC[:, : folds * columns].unflatten(1, (folds, columns))
    best_NK = folded_NFC.amax(1).topk(k, sorted=False).indices
    picked = folded_NFC.gather(2, best_NK[:, None, :].expand(-1, folds, -1)).flatten(1)
    rest = scores_NC[:, folds * columns :]  # fewer than `folds`
    value_NK, place_NK = torch.cat([picked, rest], 1).topk(k)
    from_fold_NK = (place_NK // k) * columns + best_NK.gather(1, place_NK % k)
    from_rest_NK = place_NK - k * folds + folds * columns
    return value_NK, torch.where(place_NK < k * folds, from_fold_NK, from_rest_NK)
