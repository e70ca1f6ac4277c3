"""A network that scores the next item of a sequence.

The state after an item is the decayed sum of the item vectors so far plus the output of a GRU over
them, which starts at zero. An item's score is the cosine of the state and the item's vector,
divided by a temperature.

Shape suffixes: B sequences, N all items of all sequences, I items, P flat positions including
padding, T positions of a padded group, D width of the item vectors, S predicting positions, K
sampled negatives, J = 1 + K.

Sources
    GRU                    Hidasi et al. 2016 (GRU4Rec), arXiv:1511.06939
    cosine, temperature    Wang et al. 2017 (NormFace), arXiv:1704.06369
    output from zero       Zhang et al. 2019 (Fixup), arXiv:1901.09321
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.profile.encoding import Groups, group_by_length, position_count

# A sequence is padded to the longest one of its length bucket.
LENGTH_BUCKETS = (2, 3, 4, 6, 8, 12, 20, 32)
INITIAL_STD = 0.1  # of an item vector's components
INITIAL_DECAY_RATE = 0.3  # softplus of it is 0.85: a step back has 0.43 of the weight


class PackedSequences(NamedTuple):
    """Concatenated sequences; those of one group are padded on the right to the same length."""

    item_P: np.ndarray  # int64 rows of the item table: 0 is padding, item i is row i + 1
    position_P: np.ndarray  # int64, from 0 in each sequence; 0 in padding
    groups: Groups
    index_N: np.ndarray  # flat position of every item, sequence by sequence
    last_B: np.ndarray  # flat position of each sequence's last item


def pack(sequences: list[np.ndarray]) -> PackedSequences:
    """Packs item codes; every sequence must have at least one item."""
    length_B = np.fromiter(map(len, sequences), np.int64, len(sequences))
    order_B = np.argsort(length_B, kind="stable")
    groups, start_B = group_by_length(length_B[order_B], LENGTH_BUCKETS)
    first_B = np.empty(len(sequences), np.int64)
    first_B[order_B] = start_B
    position_N = np.concatenate([np.arange(length) for length in length_B])
    index_N = np.repeat(first_B, length_B) + position_N
    item_P, position_P = np.zeros((2, position_count(groups)), np.int64)
    item_P[index_N] = np.concatenate(sequences) + 1
    position_P[index_N] = position_N
    return PackedSequences(item_P, position_P, groups, index_N, first_B + length_B - 1)


class NextItemNetwork(nn.Module):
    """`hidden`: width of the GRU."""

    def __init__(
        self,
        items: int,
        *,
        dim: int,
        hidden: int,
        layers: int,
        max_len: int,
        dropout: float,
        temperature: float,
    ):
        super().__init__()
        self.dropout, self.temperature, self.max_len = dropout, temperature, max_len
        self.table = nn.Parameter(torch.empty(1 + items, dim))
        self.decay_rate = nn.Parameter(torch.tensor(INITIAL_DECAY_RATE))
        self.gru = nn.GRU(dim, hidden, layers, batch_first=True)
        self.out = nn.Linear(hidden, dim, bias=False)
        nn.init.normal_(self.table, std=INITIAL_STD)
        nn.init.zeros_(self.out.weight)

    @torch.no_grad()
    def set_item_vectors(self, vectors_ID: np.ndarray) -> None:
        """Starts from these vectors, scaled to one length. Zeros leave an item's random vector."""
        known_I = torch.from_numpy(np.flatnonzero(vectors_ID.any(1)))
        unit_KD = F.normalize(torch.from_numpy(vectors_ID)[known_I], dim=1)
        self.table[1 + known_I] = unit_KD * INITIAL_STD * vectors_ID.shape[1] ** 0.5

    def on_device(self, indexes: np.ndarray) -> Tensor:
        """The indexes as a tensor on the network's device."""
        return torch.from_numpy(indexes).to(self.table.device)

    def states(self, packed: PackedSequences) -> Tensor:
        """(P, D) state after each position."""
        x_PD = F.embedding(self.on_device(packed.item_P), self.table)
        x_PD = F.dropout(x_PD, self.dropout, self.training)
        unit_PD = F.layer_norm(x_PD, x_PD.shape[1:])
        sums, outputs = [], []
        for start, rows, length in packed.groups:
            group = slice(start, start + rows * length)
            place_T = torch.arange(length, device=x_PD.device)
            steps_back_TT = (place_T[:, None] - place_T).clamp(min=0)
            weight_TT = torch.exp(-F.softplus(self.decay_rate) * steps_back_TT).tril()
            sums.append((weight_TT @ x_PD[group].view(rows, length, -1)).flatten(0, 1))
            outputs.append(self.gru(unit_PD[group].view(rows, length, -1))[0].flatten(0, 1))
        output_PH = F.dropout(torch.cat(outputs), self.dropout, self.training)
        return torch.cat(sums) + self.out(output_PH)

    def logits(self, state_SD: Tensor, items_I: Tensor | None = None) -> Tensor:
        """(S, I) logits of all items, or of `items_I` (0-based codes)."""
        vectors_ID = self.table[1:] if items_I is None else self.table[1 + items_I]
        unit_SD = F.normalize(state_SD, dim=1)
        return F.linear(unit_SD, F.normalize(vectors_ID, dim=1)) / self.temperature

    def scores(self, histories: list[np.ndarray]) -> np.ndarray:
        """(B, I) scores of the item after each of B histories."""
        packed = pack([history[-self.max_len :] for history in histories])
        with torch.inference_mode():
            last_BD = self.states(packed)[self.on_device(packed.last_B)]
            return self.logits(last_BD).cpu().numpy()


def sampled_softmax_loss(
    network: NextItemNetwork, state_SD: Tensor, target_S: Tensor, negatives_K: Tensor
) -> Tensor:
    """Mean cross-entropy of each target against K negatives shared by all positions.

    Negatives that equal the target are masked. They are drawn uniformly, so the loss needs no logQ
    correction (Bengio and Senecal 2008, IEEE TNN 19(4)).
    """
    unit_SD = F.normalize(state_SD, dim=1)
    vector_SD = F.normalize(network.table[1 + target_S], dim=1)
    target_logit_S = (unit_SD * vector_SD).sum(1) / network.temperature
    negative_logit_SK = network.logits(state_SD, negatives_K).masked_fill(
        negatives_K == target_S[:, None], float("-inf")
    )
    logits_SJ = torch.cat([target_logit_S[:, None], negative_logit_SK], 1)
    return (torch.logsumexp(logits_SJ, 1) - target_logit_S).mean()
