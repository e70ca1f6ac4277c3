"""The behaviour Transformer: a causal trunk over the events of one user, and its heads.

Nothing in a forward pass waits for a GPU: the next one is encoded while it computes.

Shape suffixes
    B rows (one user and window each)      P flat positions: padded sequences laid end to end
    2B rows before, then after, their window   S events of the windows   M also a chunk of them
    T positions of a padded sequence       N positions selected from P   M items, one state each
    D model width   H heads   E width of a head, or of the embedding
    7 fields of a token (models/profile/encoding.py)   C categories   I items   K best of them;
    in Fusion: K vectors of a modality, W numbers of each

Sources
    causal self-attention      Vaswani et al. 2017, arXiv:1706.03762
    on behaviour sequences     Kang and McAuley 2018 (SASRec), arXiv:1808.09781
    pre-norm residual blocks   Xiong et al. 2020, arXiv:2002.04745
    layer norm without affine  Xu et al. 2019, arXiv:1911.07013
    tied input/output rows     Press and Wolf 2017, arXiv:1608.05859
    repeat consumption         Ren et al. 2019 (RepeatNet), arXiv:1812.02646; here an additive term
                               in the logits, which the trunk can outweigh
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveprofile.events.modalities import PLACE, Modality, Vectors
from models.profile.device import to_device
from models.profile.encoding import BOS_TYPE, EncodedBatch, Groups, Layout
from models.profile.ranker.network import Ranker
from models.profile.values import ValueCurveHead


class Shape(NamedTuple):
    """The hyperparameters that set the sizes of the parameters."""

    items: int  # named items; row 0 and the hash buckets are extra
    item_buckets: int
    categories: int
    category_buckets: int
    dim: int = 32
    layers: int = 2
    heads: int = 2
    max_len: int = 32
    embedding: int = 32  # width of a profile's embedding

    @property
    def category_rows(self) -> int:
        return 1 + self.categories + self.category_buckets

    @property
    def layout(self) -> Layout:
        return Layout.from_sizes(
            1 + self.items + self.item_buckets, self.category_rows, self.max_len
        )


class Block(nn.Module):
    """Pre-norm residual block: self-attention, then a two-layer perceptron."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.mix = nn.Linear(dim, dim, bias=False)
        self.up = nn.Linear(dim, 4 * dim, bias=False)
        self.down = nn.Linear(4 * dim, dim, bias=False)

    def attend(self, qkv_P3D: Tensor, groups: Groups) -> Tensor:
        """Causal attention within each sequence; (P, D).

        A position attends to itself and earlier positions, so padding on the right needs no mask.
        """
        dim = qkv_P3D.shape[1] // 3
        parts = []
        for start, rows, length in groups:
            group = qkv_P3D[start : start + rows * length]
            qkv_3BHTE = group.view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            mixed_BHTE = F.scaled_dot_product_attention(*qkv_3BHTE.unbind(0), is_causal=True)
            parts.append(mixed_BHTE.transpose(1, 2).reshape(rows * length, dim))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def forward(
        self, x_PD: Tensor, groups: Groups, flat_position_N: Tensor | None = None
    ) -> Tensor:
        """(P, D), or (N, D) at `flat_position_N` only.

        After attention, positions are independent, so the perceptron skips the others.
        """
        width = x_PD.shape[1:]
        mixed_PD = self.attend(self.qkv(F.layer_norm(x_PD, width)), groups)
        if flat_position_N is not None:
            x_PD = x_PD.index_select(0, flat_position_N)
            mixed_PD = mixed_PD.index_select(0, flat_position_N)
        x_PD = torch.addmm(x_PD, mixed_PD, self.mix.weight.t())
        hidden_PD = torch.relu_(self.up(F.layer_norm(x_PD, width)))
        return torch.addmm(x_PD, hidden_PD, self.down.weight.t())


class BehaviourTransformer(nn.Module):
    """Trunk and heads. Parameters are float32 unless cast; the code is device-agnostic.

    Attribute names of parameters and submodules are keys of the stored weights.
    """

    def __init__(self, shape: Shape, modalities: Sequence[Modality] = ()):
        super().__init__()
        self.shape = shape
        layout, dim = shape.layout, shape.dim
        self.table = nn.Parameter(torch.empty(layout.rows, dim))
        self.blocks = nn.ModuleList(Block(dim, shape.heads) for _ in range(shape.layers))
        # Separate queries, so that the tied rows need not serve three tasks in one direction.
        self.item_query = nn.Linear(dim, dim, bias=False)
        self.category_query = nn.Linear(dim, dim, bias=False)
        self.item_bias = nn.Parameter(torch.zeros(shape.items))
        self.category_bias = nn.Parameter(torch.zeros(shape.category_rows))
        # Weights of the repeat counts in category and item logits: see `repeat_weights`.
        self.repeat = nn.Linear(dim, 2)
        self.type_head = nn.Linear(dim, BOS_TYPE)
        self.fusion = Fusion(dim, modalities)
        # None until they are fitted behind the finished trunk; serving needs both.
        self.ranker: Ranker | None = None
        self.value_curves: ValueCurveHead | None = None
        self.register_buffer("embed", torch.eye(dim, shape.embedding))
        self._item_rows = slice(layout.item + 1, layout.item + 1 + shape.items)
        self._category_rows = slice(layout.category, layout.category + shape.category_rows)
        self.reset()

    def reset(self) -> None:
        """Initializes the parameters. Residual branches start at zero, as in GPT-2's successors."""
        nn.init.normal_(self.table, std=0.05)
        for block in self.blocks:
            nn.init.zeros_(block.mix.weight)
            nn.init.zeros_(block.down.weight)
        nn.init.zeros_(self.repeat.weight)
        nn.init.ones_(self.repeat.bias)

    def trunk(
        self, embedding_rows_P7: Tensor, groups: Groups, flat_position_N: Tensor | None = None
    ) -> Tensor:
        """States h_PD, layer-normed; with `flat_position_N` only the states h_ND there.

        embedding_rows_P7: rows of `table`.
        """
        x_PD = F.embedding_bag(embedding_rows_P7, self.table, mode="sum")
        *blocks, last = self.blocks
        for block in blocks:
            x_PD = block(x_PD, groups)
        x_PD = last(x_PD, groups, flat_position_N)
        return F.layer_norm(x_PD, x_PD.shape[1:])

    def repeat_weights(self, h_ND: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1) weight of category repeat counts and (N, 1) weight of item repeat counts.

        A logit grows by its weight times its repeat count.
        """
        return self.repeat(h_ND).split(1, 1)

    def category_logits(self, h_ND: Tensor, repeat_counts_NC: Tensor) -> Tensor:
        """(N, C) over row 0 (no category), the named categories and the hash buckets.

        repeat_counts_NC: of the user, as models/profile/user_features.py computes them.
        """
        rows_CD = self.table[self._category_rows]
        logits_NC = F.linear(self.category_query(h_ND), rows_CD, self.category_bias)
        return torch.addcmul(logits_NC, self.repeat_weights(h_ND)[0], repeat_counts_NC)

    def type_logits(self, h_ND: Tensor) -> Tensor:
        """(N, types) in the order of liveprofile.wire.tokens.EVENT_TYPES."""
        return self.type_head(h_ND)

    def item_logits(self, h_ND: Tensor, items_I: Tensor | slice = slice(None)) -> Tensor:
        """(N, I) over the named items, or over `items_I` of them (0-based).

        Excludes the repeat term, which is zero for most items: the caller adds the item weight of
        `repeat_weights` times the repeat counts.
        """
        rows_ID, bias_I = self.table[self._item_rows][items_I], self.item_bias[items_I]
        return F.linear(self.item_query(h_ND), rows_ID, bias_I)

    def paired_item_logits(
        self, h_ND: Tensor, item_M: Tensor, state_M: Tensor | None = None
    ) -> Tensor:
        """(M,) logits of one item each, without the repeat term.

        state_M: index of each item's state among the N; None: item i belongs to state i.
        """
        query_MD = self.item_query(h_ND)
        if state_M is not None:
            query_MD = query_MD.index_select(0, state_M)
        rows_MD = self.table[self._item_rows].index_select(0, item_M)
        return torch.linalg.vecdot(query_MD, rows_MD) + self.item_bias[item_M]

    def embeddings(self, h_ND: Tensor) -> Tensor:
        """(N, embedding) unit vectors: the states projected on the directions in `embed`."""
        return F.normalize(h_ND.float() @ self.embed.float(), dim=1)


# Positions whose surprise is computed at a time on a CPU: their logits fit in a core's cache.
SURPRISE_CHUNK_POSITIONS = 1024


class PassResult(NamedTuple):
    """The outputs of one forward pass of B rows, on the device."""

    embedding_2BE: Tensor
    after_BD: Tensor  # states after the windows
    surprise_S: Tensor  # of the events that can surprise
    row_S: np.ndarray  # the row that each of them belongs to


def forward(model: BehaviourTransformer, batch: EncodedBatch, device: torch.device) -> PassResult:
    """Runs the network on encoded rows."""
    counts_B, rows, scored = batch.scored_counts_B, len(batch.after_B), len(batch.scored_S)
    row_S = np.repeat(np.arange(rows), counts_B)
    after_B = scored + np.arange(rows)
    before_B = np.where(counts_B > 0, np.cumsum(counts_B) - counts_B, after_B)
    parts = (batch.scored_S, batch.after_B, before_B, row_S, batch.category_S, batch.type_S)
    embedding_rows_P7, index, repeat_counts_BC = (
        to_device(each, device)
        for each in (batch.embedding_rows_P7, np.concatenate(parts), batch.repeat_counts_BC)
    )
    flat_position_N, before, *events = index.split([scored + rows, rows, scored, scored, scored])
    h_ND = model.trunk(embedding_rows_P7, batch.groups, flat_position_N)
    log_p_S = []
    chunk = SURPRISE_CHUNK_POSITIONS if device.type == "cpu" else max(scored, 1)
    chunks = zip(*(each.split(chunk) for each in (h_ND[:scored], *events)), strict=True)
    for h_MD, row_M, category_M, type_M in chunks:
        repeat_counts_MC = repeat_counts_BC.index_select(0, row_M)
        category_MC = model.category_logits(h_MD, repeat_counts_MC)
        log_p_S.append(log_p(category_MC, category_M) + log_p(model.type_logits(h_MD), type_M))
    after_BD = h_ND[scored:]
    can_surprise_S = can_surprise(model, batch.category_S)
    return PassResult(
        model.embeddings(torch.cat([h_ND.index_select(0, before), after_BD])),
        after_BD,
        -torch.cat(log_p_S)[to_device(can_surprise_S, device)],
        row_S[can_surprise_S],
    )


def can_surprise(model: BehaviourTransformer, category_N: np.ndarray) -> np.ndarray:
    """(N,) bool: whether the model has a name for the category; all if it has no names.

    Another shop's categories say nothing against what the model has learned.
    """
    named = model.shape.categories
    return (category_N > 0) & (category_N <= named) if named else np.ones(len(category_N), bool)


def log_p(logits_MC: Tensor, class_M: Tensor) -> Tensor:
    """(M,) log probability of a class of each row."""
    return logits_MC.float().log_softmax(1).gather(1, class_M[:, None]).squeeze(1)


CELL_DEGREES = (0.05, 1.0)  # about 5 and 100 km
CELL_ROWS = 1_024  # of each of the two grids


class ModalityRows(NamedTuple):
    """The vectors of one modality in a batch of B rows."""

    row_K: np.ndarray  # row of each vector, 0..B-1
    vector_KW: np.ndarray  # float32


ModalityInputs = dict[Modality, ModalityRows]


def collate(vectors: Sequence[Vectors]) -> ModalityInputs:
    """Groups the vectors of B windows by modality."""
    by_modality: dict[Modality, tuple[list[int], list[np.ndarray]]] = {}
    for row, window_vectors in enumerate(vectors):
        for modality, vector in window_vectors.items():
            rows, columns = by_modality.setdefault(modality, ([], []))
            rows.append(row)
            columns.append(vector)
    return {
        modality: ModalityRows(np.array(rows), np.stack(columns))
        for modality, (rows, columns) in by_modality.items()
    }


class Fusion(nn.Module):
    """Projects vectors of the given modalities to the model width; ignores other modalities."""

    def __init__(self, dim: int, modalities: Sequence[Modality] = ()):
        super().__init__()
        self.dim, self.modalities = dim, tuple(modalities)
        heights = [len(CELL_DEGREES) * CELL_ROWS if m == PLACE else m.numbers for m in modalities]
        self.weights = nn.ParameterList(torch.zeros(height, dim) for height in heights)

    def forward(self, inputs: ModalityInputs, rows: int) -> Tensor:
        """(B, D) to add to the states after B windows; zeros for windows without vectors."""
        weight = self.weights[0] if len(self.weights) else torch.zeros(0)
        fused_BD = weight.new_zeros(rows, self.dim)
        for modality, weight_WD in zip(self.modalities, self.weights, strict=True):
            if modality not in inputs:
                continue
            row_K, vector_KW = inputs[modality]
            if modality == PLACE:
                cell_K2 = to_device(grid_cells(vector_KW), weight_WD.device)
                projected_KD = weight_WD[cell_K2].sum(1)
            else:
                projected_KD = (
                    to_device(vector_KW, weight_WD.device).to(weight_WD.dtype) @ weight_WD
                )
            row_index_K = to_device(row_K, weight_WD.device)
            fused_BD = fused_BD.index_add(0, row_index_K, projected_KD)
        return fused_BD


def grid_cells(place_K2: np.ndarray) -> np.ndarray:
    """(K, 2) int64: the weight row of a place's cell in each of the two grids.

    place_K2: latitude and longitude in degrees.
    """
    rows = []
    for grid, degrees in enumerate(CELL_DEGREES):
        lat_K, lon_K = np.floor(place_K2.astype(np.float64) / degrees).astype(np.int64).T
        rows.append(grid * CELL_ROWS + ((lat_K * 73_856_093) ^ (lon_K * 19_349_663)) % CELL_ROWS)
    return np.stack(rows, axis=1)
