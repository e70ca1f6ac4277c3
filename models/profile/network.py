"""The behaviour Transformer: a causal trunk over one user's events, and its heads.

Shape suffixes
    B rows (one user and window each)      P flat positions: sequences laid end to end
    T positions of a padded sequence       N any number of positions picked out of P
    D model width   H heads   E width of a head   F fields of a token   C categories   I items
    X numbers of a user's past (models/profile/user_features.py)

Sources
    causal self-attention      Vaswani et al. 2017, arXiv:1706.03762
    on behaviour sequences     Kang and McAuley 2018 (SASRec), arXiv:1808.09781
    pre-norm residual blocks   Xiong et al. 2020, arXiv:2002.04745
    layer norm without affine  Xu et al. 2019, arXiv:1911.07013
    tied input/output rows     Press and Wolf 2017, arXiv:1608.05859
    what was had, had again    Ren et al. 2019 (RepeatNet), arXiv:1812.02646, here as one term more
                               in the logits, so that the trunk can speak against it
    churn and spend in one     Wang et al. 2019 (zero-inflated log-normal), arXiv:1912.07753
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveprofile.events.modalities import Modality
from models.profile.encoding import BOS_TYPE, Layout
from models.profile.modality_layers import Fusion
from models.profile.user_features import NUMBERS

Groups = list[tuple[int, int, int]]  # first position, rows, length: see encode.Batch

VALUE_WIDTH = 64


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
    embedding: int = 32  # numbers of a profile's embedding

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
            x_PD, mixed_PD = (one.index_select(0, place_N) for one in (x_PD, mixed_PD))
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

    def __init__(self, shape: Shape, modalities: Sequence[Modality] = ()):
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
        # What a user has had so often is worth in each category's and each item's logit.
        self.repeat = nn.Linear(dim, 2)
        self.type_head = nn.Linear(dim, BOS_TYPE)
        self.value_head = ValueHead(dim)
        self.fusion = Fusion(dim, modalities)
        self.register_buffer("embed", torch.eye(dim, shape.embedding))
        self._item_rows = slice(layout.item + 1, layout.item + 1 + shape.items)
        self._category_rows = slice(layout.category, layout.category + shape.category_rows)
        self.reset()

    def reset(self) -> None:
        """Initialises: residual branches start at zero, as in GPT-2's descendants."""
        nn.init.normal_(self.table, std=0.05)
        for block in self.blocks:
            nn.init.zeros_(block.mix.weight)
            nn.init.zeros_(block.down.weight)
        nn.init.zeros_(self.repeat.weight)
        nn.init.ones_(self.repeat.bias)

    def trunk(self, features_PF: Tensor, groups: Groups, place_N: Tensor | None = None) -> Tensor:
        """features_PF: rows of the table. Returns h_PD, layer-normed; h_ND of `place_N` alone if
        that is all that is read of it."""
        x_PD = F.embedding_bag(features_PF, self.table, mode="sum")
        *blocks, last = self.blocks
        for block in blocks:
            x_PD = block(x_PD, groups)
        x_PD = last(x_PD, groups, place_N)
        return F.layer_norm(x_PD, x_PD.shape[1:])

    def repeats(self, h_ND: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1) each: how much having had a category and an item adds to its logit."""
        return self.repeat(h_ND).split(1, 1)

    def category_logits(self, h_ND: Tensor, had_NC: Tensor) -> Tensor:
        """(N, C) over row 0 (unknown), the named categories and the hash buckets.

        had_NC: how often the user has had each (models/profile/user_features.py).
        """
        rows_CD = self.table[self._category_rows]
        logits_NC = F.linear(self.category_query(h_ND), rows_CD, self.category_bias)
        return torch.addcmul(logits_NC, self.repeats(h_ND)[0], had_NC)

    def type_logits(self, h_ND: Tensor) -> Tensor:
        """(N, types) in the order of liveprofile.wire.tokens.EVENT_TYPES."""
        return self.type_head(h_ND)

    def item_logits(self, h_ND: Tensor, items_I: Tensor | slice = slice(None)) -> Tensor:
        """(N, I) over the named items, or over `items_I` of them (0-based); what the user has had
        is not in them, since of all items those are few: `repeats` says what to add there."""
        rows_ID, bias_I = self.table[self._item_rows][items_I], self.item_bias[items_I]
        return F.linear(self.item_query(h_ND), rows_ID, bias_I)

    def item_logit(self, h_ND: Tensor, item_M: Tensor, state_M: Tensor | None = None) -> Tensor:
        """(M,) of one item each. `state_M`: in which of the N states, if not in each its own."""
        query_MD = self.item_query(h_ND)
        if state_M is not None:
            query_MD = query_MD.index_select(0, state_M)
        rows_MD = self.table[self._item_rows].index_select(0, item_M)
        return torch.linalg.vecdot(query_MD, rows_MD) + self.item_bias[item_M]

    def embeddings(self, h_ND: Tensor) -> Tensor:
        """(N, embedding) of unit length: the states along the directions that `embed` keeps."""
        return F.normalize(h_ND.float() @ self.embed.float(), dim=1)

    def values(self, h_ND: Tensor, numbers_NX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `ValueHead`."""
        return self.value_head(h_ND, numbers_NX)


class ValueHead(nn.Module):
    """Churn and spend from the numbers of a user's past, and from the trunk's state where it helps.

    A linear model and a deep one in a sum (Cheng et al. 2016, arXiv:1606.07792). Whether the state
    helps is found in training (models/profile/training/churn_spend_head.py); if not, its weights are zero. It stays in float32
    where the trunk is in bfloat16.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(NUMBERS)))
        self.register_buffer("std", torch.ones(len(NUMBERS)))
        self.numbers = nn.Linear(len(NUMBERS), VALUE_WIDTH)
        self.state = nn.Linear(dim, VALUE_WIDTH, bias=False)
        self.hidden = nn.Linear(VALUE_WIDTH, VALUE_WIDTH)
        self.out = nn.Linear(VALUE_WIDTH, 3)
        self.linear = nn.Linear(len(NUMBERS), 3, bias=False)
        nn.init.zeros_(self.state.weight)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        nn.init.zeros_(self.linear.weight)

    def forward(self, h_ND: Tensor, numbers_NX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Churn logit, and mean and spread (> 0) of the log of what is spent if anything is."""
        scaled_NX = (numbers_NX - self.mean) / self.std
        hidden_NV = torch.relu(self.numbers(scaled_NX) + self.state(h_ND.float()))
        values_N3 = self.out(torch.relu(self.hidden(hidden_NV))) + self.linear(scaled_NX)
        churn_N, log_mean_N, raw_N = values_N3.unbind(1)
        return churn_N, log_mean_N, F.softplus(raw_N + 0.5413) + 0.1  # 1.1 at the start


def expected_spend(churn_N: Tensor, log_mean_N: Tensor, log_std_N: Tensor) -> Tensor:
    """Median of the zero-inflated log-normal: currency, >= 0. `churn_N` is a probability.

    As likely more as less: the value with the least absolute error. The mean hangs on the tail,
    where few samples are.
    """
    rank_N = ((0.5 - churn_N) / (1 - churn_N)).clamp(min=1e-6)  # among those who buy
    # Bounded, since one exploding exponent would swamp every average built on it.
    exponent_N = (log_mean_N + log_std_N * torch.special.ndtri(rank_N)).clamp(max=20.0)
    return torch.where(churn_N < 0.5, exponent_N.exp(), 0.0)


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
