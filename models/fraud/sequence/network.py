"""The sequence model: log-odds of fraud of an event from the last events of its lists.

A causal Transformer (models/profile/network.py) whose last token is the scored event. A fraud head
reads that position only. The log-odds are an input of the trees (models/fraud/model.py), which is
stacking (Wolpert 1992, "Stacked generalization").

Shape suffixes: P tokens of all sequences, end to end; F fields of a token; n sequences; L length of
the longest sequence; D model width.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from liveprofile.errors import InputError
from liveprofile.features.entity import EventLists
from models.fraud.sequence.tokens import (
    SEQUENCE_LENGTH,
    TABLE_ROWS,
    WARM_UP_TOKENS,
    TokenSequences,
    tokenize,
)
from models.profile.network import Block

WEIGHTS = "sequence.safetensors"


class SequenceShape(NamedTuple):
    """Sizes of the parameters, and which lists and how much of them the model reads."""

    sources: tuple[str, ...] = ("user",)  # of tokens.SOURCES, the user's last
    keep: int = SEQUENCE_LENGTH  # newest entries of each list
    dim: int = 32
    layers: int = 1
    heads: int = 2


class SequenceNet(nn.Module):
    """Transformer trunk and fraud head."""

    def __init__(self, shape: SequenceShape, dropout: float = 0.0):
        super().__init__()
        self.table = nn.Parameter(torch.empty(TABLE_ROWS, shape.dim))
        self.blocks = nn.ModuleList(
            Block(shape.dim, shape.heads, dropout) for _ in range(shape.layers)
        )
        self.head = nn.Linear(shape.dim, 1)
        nn.init.normal_(self.table, std=0.1)
        for block in self.blocks:
            nn.init.zeros_(block.mix.weight)
            nn.init.zeros_(block.down.weight)

    def forward(self, token_PF: Tensor, last_n: Tensor, length: int) -> Tensor:
        """Returns (n,) log-odds of n sequences padded to `length`.

        token_PF: (n * length, F) rows of the embedding table. last_n: (n,) positions of the scored
        events among them.
        """
        x_PD = F.embedding_bag(token_PF, self.table, mode="sum")
        groups = [(0, len(last_n), length)]
        *blocks, last = self.blocks
        for block in blocks:
            x_PD = block(x_PD, groups)
        # Only the scored event's position needs the layers after the last attention.
        h_nD = last(x_PD, groups, last_n)
        return self.head(F.layer_norm(h_nD, h_nD.shape[1:])).squeeze(1)


def pad(tokens: TokenSequences) -> tuple[np.ndarray, np.ndarray, int]:
    """Pads sequences to one length.

    Returns (n * length, F) int64 rows of the embedding table, (n,) positions of the scored events,
    and the length. Padding is on the right, where causal attention hides it from all other
    positions, so the padding tokens do not matter.
    """
    size_n = np.diff(tokens.starts)
    length = int(size_n.max())
    index_nL = np.minimum(
        tokens.starts[:-1, None] + np.arange(length), (tokens.starts[1:] - 1)[:, None]
    )
    last_n = np.arange(len(size_n)) * length + size_n - 1
    return tokens.token_PF[index_nL.ravel()].astype(np.int64), last_n, length


class SequenceModel:
    """A trained network on a device. Not thread-safe."""

    def __init__(
        self, network: nn.Module, shape: SequenceShape, device: torch.device | None = None
    ):
        self.shape, self._device = shape, device or torch.device("cpu")
        self.network = network.to(self._device).eval().requires_grad_(False)

    def tokens(self, rows: EventLists) -> TokenSequences:
        return tokenize(rows, self.shape.sources, self.shape.keep)

    def log_odds(self, rows: EventLists) -> np.ndarray:
        """Returns (n,) float32 log-odds, shifted by a constant (sequence.fit).

        An event without tokens has NaN.
        """
        return self.log_odds_of_sequences(self.tokens(rows))

    def log_odds_of_sequences(self, tokens: TokenSequences) -> np.ndarray:
        """Returns the same as `log_odds`, from sequences."""
        nonempty_n = tokens.starts[1:] > tokens.starts[:-1]
        if not (len(nonempty_n) and nonempty_n.all()):
            log_odds_n = np.full(len(nonempty_n), np.nan, np.float32)
            if nonempty_n.any():
                log_odds_n[nonempty_n] = self.log_odds_of_sequences(
                    tokens.take(np.flatnonzero(nonempty_n))
                )
            return log_odds_n
        token_PF, last_n, length = pad(tokens)
        with torch.inference_mode():
            log_odds_n = self.network(self._to_device(token_PF), self._to_device(last_n), length)
            return log_odds_n.cpu().numpy()

    def _to_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    @property
    def weights(self) -> bytes:
        """The parameters in safetensors format, float32."""
        state = {
            name: value.cpu().contiguous() for name, value in self.network.state_dict().items()
        }
        return to_bytes(state)

    def save(self, folder: Path) -> dict[str, Any]:
        """Writes the weights. Returns the `sequence` section of the model card for `load`."""
        content = self.weights
        (folder / WEIGHTS).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        return {"shape": self.shape._asdict(), "sha256": sha256}

    @classmethod
    def load(
        cls, folder: Path, card: dict[str, Any], device: torch.device | None = None
    ) -> SequenceModel:
        """Loads what `save` wrote, and runs a first pass so that no batch pays for warming up.

        card: the `sequence` section of the model card. Raises InputError naming the file and the
        problem.
        """
        file = folder / WEIGHTS
        try:
            content = file.read_bytes()
            if hashlib.sha256(content).hexdigest() != card["sha256"]:
                raise InputError(f"fraud model {file}: the SHA-256 differs from its card's")
            shape = SequenceShape(**{**card["shape"], "sources": tuple(card["shape"]["sources"])})
            network = SequenceNet(shape)
            network.load_state_dict(from_bytes(content))
        except OSError as error:
            raise InputError(f"fraud model {file}: {error.strerror or error}") from None
        except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"fraud model {file}: {reason}") from None
        loaded = cls(network, shape, device)
        loaded.log_odds_of_sequences(WARM_UP_TOKENS)
        return loaded
