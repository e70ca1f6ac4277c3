"""A network over a sequence of items that scores the next one: a causal Transformer, or a GRU.

The score of an item is the cosine between the sequence's state and the item's vector, over a
temperature. Shape suffixes as in models.next_item.data, and: P flat positions, padding included;
D width; S positions that predict.

Sources
    the Transformer        Kang and McAuley 2018 (SASRec), arXiv:1808.09781; its blocks are those of
                           the profile's model (models.profile.network)
    the GRU                Hidasi et al. 2016 (GRU4Rec), arXiv:1511.06939
    cosine, temperature    Wang et al. 2017 (NormFace), arXiv:1704.06369
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.profile.encoding import layout_groups, positions
from models.profile.network import Block, Groups

# Sequences of about one length are padded to the longest of them.
LENGTH_BUCKETS = (2, 3, 4, 6, 8, 12, 20, 32)


class Packed(NamedTuple):
    """Sequences laid end to end, those of one group padded on the right to one length."""

    item_P: np.ndarray  # int64; padding is row 0 of the items' table, item i is row i + 1
    position_P: np.ndarray  # int64, from 0 in each sequence; 0 in padding
    groups: Groups
    place_N: np.ndarray  # of every item, sequence by sequence
    last_B: np.ndarray  # of each sequence's last item


def pack(sequences: list[np.ndarray]) -> Packed:
    """`sequences`: codes, at least one each."""
    length_B = np.fromiter(map(len, sequences), np.int64, len(sequences))
    order_B = np.argsort(length_B, kind="stable")
    groups, start_B = layout_groups(length_B[order_B], LENGTH_BUCKETS)
    first_B = np.empty(len(sequences), np.int64)
    first_B[order_B] = start_B
    position_N = np.concatenate([np.arange(length) for length in length_B])
    place_N = np.repeat(first_B, length_B) + position_N
    item_P, position_P = np.zeros((2, positions(groups)), np.int64)
    item_P[place_N] = np.concatenate(sequences) + 1
    position_P[place_N] = position_N
    return Packed(item_P, position_P, groups, place_N, first_B + length_B - 1)


class NextItem(nn.Module):
    """`kind`: "transformer" or "gru"."""

    def __init__(
        self,
        kind: str,
        items: int,
        *,
        dim: int,
        layers: int,
        heads: int,
        max_len: int,
        dropout: float,
        temperature: float,
    ):
        super().__init__()
        self.dropout, self.temperature, self.max_len = dropout, temperature, max_len
        self.table = nn.Parameter(torch.empty(1 + items, dim))
        if kind == "gru":
            self.gru = nn.GRU(dim, dim, layers, batch_first=True)
            self.position = self.blocks = None
        else:
            self.position = nn.Parameter(torch.empty(max_len, dim))
            self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(layers))
            nn.init.normal_(self.position, std=0.02)
        nn.init.normal_(self.table, std=0.02)

    def states(self, packed: Packed) -> Tensor:
        """(P, D) of every position."""
        x_PD = self.table[torch.from_numpy(packed.item_P)]
        if self.blocks is None:
            x_PD = F.dropout(x_PD, self.dropout, self.training)
            parts = []
            for start, rows, length in packed.groups:
                group_BTD = x_PD[start : start + rows * length].view(rows, length, -1)
                parts.append(self.gru(group_BTD)[0].flatten(0, 1))
            return F.dropout(torch.cat(parts), self.dropout, self.training)
        x_PD = x_PD + self.position[torch.from_numpy(packed.position_P)]
        x_PD = F.dropout(x_PD, self.dropout, self.training)
        for block in self.blocks:
            x_PD = block(x_PD, packed.groups)
        return x_PD

    def logits(self, state_SD: Tensor, items_I: Tensor | None = None) -> Tensor:
        """(S, I) of all items, or of `items_I`."""
        vectors_ID = self.table[1:] if items_I is None else self.table[1 + items_I]
        unit_SD = F.normalize(state_SD, dim=1)
        return F.linear(unit_SD, F.normalize(vectors_ID, dim=1)) / self.temperature

    def scores(self, histories: list[np.ndarray]) -> np.ndarray:
        """(B, I) of the item after each history."""
        packed = pack([history[-self.max_len :] for history in histories])
        with torch.inference_mode():
            return self.logits(self.states(packed)[torch.from_numpy(packed.last_B)]).numpy()


def sampled_softmax(
    network: NextItem, state_SD: Tensor, target_S: Tensor, negatives_K: Tensor
) -> Tensor:
    """Cross-entropy of each target among itself and K items drawn for all (uniformly, so that no
    correction is needed: Bengio and Senecal 2008, IEEE TNN 19(4)); drawn targets don't count."""
    unit_SD = F.normalize(state_SD, dim=1)
    vector_SD = F.normalize(network.table[1 + target_S], dim=1)
    true_S = (unit_SD * vector_SD).sum(1) / network.temperature
    drawn_SK = network.logits(state_SD, negatives_K)
    drawn_SK = drawn_SK.masked_fill(negatives_K == target_S[:, None], float("-inf"))
    return (torch.logsumexp(torch.cat([true_S[:, None], drawn_SK], 1), 1) - true_S).mean()
