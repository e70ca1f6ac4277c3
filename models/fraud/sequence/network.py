"""The sequence model of single events: log-odds of fraud by the last events of the user's list.

A causal Transformer (models/profile/network.py) whose last token is the event that is scored; a fraud
head reads that position alone. Its log-odds are one more input of the trees (event_model.py), which
is stacking (Wolpert 1992, "Stacked generalization").

Shape suffixes as in event_tokens.py; D model width.
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
from liveprofile.features.entity import Rows
from models.fraud.sequence.tokens import ANY, KEEP, TABLE_ROWS, Tokens, tokens_of
from models.profile.network import Block

WEIGHTS = "sequence.safetensors"


class Shape(NamedTuple):
    """All that decides the sizes of the parameters, and what is read."""

    sources: tuple[str, ...] = ("user",)  # of event_tokens.SOURCES, the user's last
    keep: int = KEEP  # newest entries of each list
    dim: int = 32
    layers: int = 1
    heads: int = 2


class Net(nn.Module):
    """Trunk and fraud head."""

    def __init__(self, shape: Shape, dropout: float = 0.0):
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

    def forward(self, row_PF: Tensor, place_n: Tensor, length: int) -> Tensor:
        """(n,) log-odds at `place_n` of n sequences padded to `length`."""
        x_PD = F.embedding_bag(row_PF, self.table, mode="sum")
        groups = [(0, len(place_n), length)]
        *blocks, last = self.blocks
        for block in blocks:
            x_PD = block(x_PD, groups)
        # Only the scored event is asked: behind the last attention the others need no more.
        h_nD = last(x_PD, groups, place_n)
        return self.head(F.layer_norm(h_nD, h_nD.shape[1:])).squeeze(1)


def padded(tokens: Tokens) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows of the table, (n * length, F) int64, places of the scored events, (n,), and the length.

    Padding is on the right, where no position before it sees it: any token will do.
    """
    size_n = np.diff(tokens.starts)
    length = int(size_n.max())
    index_nL = np.minimum(
        tokens.starts[:-1, None] + np.arange(length), (tokens.starts[1:] - 1)[:, None]
    )
    place_n = np.arange(len(size_n)) * length + size_n - 1
    return tokens.row_PF[index_nL.ravel()].astype(np.int64), place_n, length


class EventSequence:
    """A net on a device. Not for use by several threads at once."""

    def __init__(self, net: nn.Module, shape: Shape, device: torch.device | None = None):
        self.shape, self._device = shape, device or torch.device("cpu")
        self.net = net.to(self._device).eval().requires_grad_(False)

    def tokens(self, rows: Rows) -> Tokens:
        return tokens_of(rows, self.shape.sources, self.shape.keep)

    def log_odds(self, rows: Rows) -> np.ndarray:
        """(n,) float32, but for a constant (event_sequence_fit); NaN of an event without lists."""
        return self.of_tokens(self.tokens(rows))

    def of_tokens(self, tokens: Tokens) -> np.ndarray:
        """The same of sequences."""
        full_n = tokens.starts[1:] > tokens.starts[:-1]
        if not (len(full_n) and full_n.all()):
            log_odds_n = np.full(len(full_n), np.nan, np.float32)
            if full_n.any():
                log_odds_n[full_n] = self.of_tokens(tokens.take(np.flatnonzero(full_n)))
            return log_odds_n
        row_PF, place_n, length = padded(tokens)
        with torch.inference_mode():
            found_n = self.net(self._to_device(row_PF), self._to_device(place_n), length)
            return found_n.cpu().numpy()

    def _to_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    @property
    def weights(self) -> bytes:
        """As they are saved: in float32, since there are few."""
        state = {name: value.cpu().contiguous() for name, value in self.net.state_dict().items()}
        return to_bytes(state)

    def save(self, folder: Path) -> dict[str, Any]:
        """Writes the weights; returns what `load` needs beside them."""
        content = self.weights
        (folder / WEIGHTS).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        return {"shape": self.shape._asdict(), "sha256": sha256}

    @classmethod
    def load(
        cls, folder: Path, about: dict[str, Any], device: torch.device | None = None
    ) -> EventSequence:
        """With a first pass behind it, so that no batch pays for that.

        Raises InputError: one line with the file and what is wrong with it.
        """
        file = folder / WEIGHTS
        try:
            content = file.read_bytes()
            if hashlib.sha256(content).hexdigest() != about["sha256"]:
                raise InputError(f"event model {file}: not the file that its card describes")
            shape = Shape(**{**about["shape"], "sources": tuple(about["shape"]["sources"])})
            net = Net(shape)
            net.load_state_dict(from_bytes(content))
        except OSError as error:
            raise InputError(f"event model {file}: {error.strerror or error}") from None
        except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"event model {file}: {reason}") from None
        loaded = cls(net, shape, device)
        loaded.of_tokens(ANY)
        return loaded
