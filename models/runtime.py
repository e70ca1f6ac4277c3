"""The model as the job calls it: tokens in, profiles before and after out, batched and timed.

One pass of the causal trunk yields both sides: what stands at the last event before the window
knows nothing of the window. Rows are sorted by length and padded only to the longest of their
group, and heads run only at the positions that need them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from liveprofile.errors import InputError
from models import checkpoint
from models.encode import Batch, Encoder, Vocabulary
from models.transformer import BehaviourTransformer, expected_spend, top_k
from udfs.columns import TokenColumns
from udfs.events import TYPE_INDEX, Token

TOP = 10
SCRATCH_BYTES = 31 << 20


class ModelError(InputError):
    """The device or the model's settings can't be used."""


class BatchTime(NamedTuple):
    """One forward pass, for metrics. `length`: its longest padded sequence."""

    rows: int
    length: int
    milliseconds: float


class Scores(NamedTuple):
    """B rows in the order given; float32 and int32 arrays. k = min(10, names the model knows)."""

    embedding_before: np.ndarray  # (B, d), unit length
    embedding_after: np.ndarray
    interests_before: np.ndarray  # (B, k) indexes into ProfileModel.categories, likeliest first
    interests_before_p: np.ndarray  # (B, k) their probabilities
    interests_after: np.ndarray
    interests_after_p: np.ndarray
    next_items: np.ndarray  # (B, k) indexes into ProfileModel.items
    churn_before: np.ndarray  # (B,) probability of no purchase in the horizon
    churn_after: np.ndarray
    spend_before: np.ndarray  # (B,) expected, in currency, >= 0
    spend_after: np.ndarray
    surprise: np.ndarray  # (B,) nats an event; 0 for an empty window
    batches: list[BatchTime]


class ProfileModel:
    """A checkpoint on a device. Not for use by several threads at once."""

    def __init__(
        self,
        model: BehaviourTransformer,
        items: list[str],
        categories: list[str],
        card: dict[str, Any],
        *,
        device: torch.device,
        batch_rows: int,
        length_buckets: Sequence[int],
    ):
        self.card = card
        self.version: str = card["version"]
        self.revision: int = card["revision"]
        self.items, self.categories = items, categories
        self.max_len, self.dim = model.shape.max_len, model.shape.dim
        self._device = device
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._model = model.to(device, dtype)
        self._batch_rows, self._length_buckets = batch_rows, tuple(length_buckets)
        self._encoder = Encoder(
            Vocabulary(items, model.shape.item_buckets),
            Vocabulary(categories, model.shape.category_buckets),
            self.max_len,
        )

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        threads: int = 1,
        batch_rows: int = 512,
        length_buckets: Sequence[int] = (8, 16, 32),
    ) -> ProfileModel:
        """Loads a checkpoint; on a card it computes in bfloat16, on the CPU in float32.

        `threads` is torch's, so it holds for the whole process. Raises InputError for a bad folder,
        ModelError for a device that is not there.
        """
        cuda = device != "cpu" and torch.cuda.is_available()
        if device == "cuda" and not cuda:
            raise ModelError(
                "model.device = cuda, but torch finds no CUDA card; set it to auto or cpu"
            )
        torch.set_num_threads(threads)
        model, items, categories, card = checkpoint.load(Path(folder))
        return cls(
            model,
            items,
            categories,
            card.model_dump(),
            device=torch.device("cuda" if cuda else "cpu"),
            batch_rows=batch_rows,
            length_buckets=length_buckets,
        )

    def warm_up(self) -> None:
        """Runs every length once, so that the first real batch costs no more than the others."""
        # glibc returns big blocks to the kernel at once until it has seen a bigger one freed. With
        # this one (32 MiB is its limit) the passes' scratch stays mapped: no page faults in them.
        torch.empty(SCRATCH_BYTES, dtype=torch.uint8)
        lengths = sorted({2, self.max_len, *(n for n in self._length_buckets if n < self.max_len)})
        rows = [
            [Token(1_500_000_000_000 + i, TYPE_INDEX["view"], "", "", 0.0) for i in range(n - 1)]
            for n in lengths
        ]
        self.score(
            TokenColumns.of([row[:-1] for row in rows]), TokenColumns.of([row[-1:] for row in rows])
        )

    def score(self, histories: TokenColumns, windows: TokenColumns) -> Scores:
        """Profiles of B users: row i of `histories` came before row i of `windows`."""
        length_B = self._encoder.lengths(histories.sizes, windows.sizes)
        order_B = np.argsort(length_B, kind="stable")
        known = self._encoder.known(histories, windows)
        pending, clocks = [], []
        with torch.inference_mode():
            for first in range(0, len(order_B), self._batch_rows):
                part_B = order_B[first : first + self._batch_rows]
                clock = _Clock(self._device, len(part_B), int(length_B[part_B[-1]]))
                batch = self._encoder.encode(known, part_B, self._length_buckets)
                pending.append((self._forward(batch), batch.scored_counts_B))
                clock.stop()
                clocks.append(clock)
        return self._gather(pending, order_B, [clock.read() for clock in clocks])

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """floats (B, 2d + 2k + 4), ints (B, 2k + k) and the surprise of each scored event (S,)."""
        rows, scored = len(batch.before_B), len(batch.scored_S)
        # A row's first scored place is its place before the window; without a window it is `after`.
        counts_B = batch.scored_counts_B
        first_B = np.where(counts_B > 0, np.cumsum(counts_B) - counts_B, scored + np.arange(rows))
        places = np.concatenate(
            [batch.scored_S, batch.after_B, first_B, batch.category_S, batch.type_S]
        )
        features_P7, places = self._to_device(batch.features_P7), self._to_device(places)
        place_N, first_B, category_S, type_S = places.split([scored + rows, rows, scored, scored])

        model = self._model
        h_ND = model.trunk(features_P7, batch.groups, place_N)
        category_NC = model.category_logits(h_ND).float().log_softmax(1)
        type_SK = model.type_logits(h_ND[:scored]).float().log_softmax(1)
        surprise_S = -(
            category_NC[:scored].gather(1, category_S[:, None]) + type_SK.gather(1, type_S[:, None])
        ).squeeze(1)

        both_2B = torch.cat([first_B, torch.arange(scored, scored + rows, device=self._device)])
        h_2BD = h_ND[both_2B]
        named = slice(1, 1 + len(self.categories))  # neither the unknown nor the hash buckets
        log_p_2BK, interest_2BK = top_k(category_NC[both_2B, named], TOP)
        churn_logit_2B, log_mean_2B, log_std_2B = model.values(h_2BD)
        churn_2B = churn_logit_2B.sigmoid()
        spend_2B = expected_spend(churn_2B, log_mean_2B, log_std_2B)
        item_BK = top_k(model.item_logits(h_2BD[rows:]).float(), TOP)[1]
        unit_2BD = F.normalize(h_2BD.float(), dim=1)
        floats = torch.cat([unit_2BD, log_p_2BK.exp(), churn_2B[:, None], spend_2B[:, None]], 1)
        ints = torch.cat([interest_2BK[:rows], interest_2BK[rows:], item_BK], 1).int()
        return floats, ints, surprise_S

    def _to_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _gather(
        self,
        pending: list[tuple[tuple[Tensor, Tensor, Tensor], np.ndarray]],
        order_B: np.ndarray,
        batches: list[BatchTime],
    ) -> Scores:
        """Brings the passes' results together, in the caller's order."""
        rows, dim = len(order_B), self.dim
        known, items = min(TOP, len(self.categories)), min(TOP, len(self.items))
        floats_2BX = np.empty((2, rows, dim + known + 2), np.float32)
        ints_BX = np.empty((rows, 2 * known + items), np.int32)
        surprise_B = np.zeros(rows, np.float32)
        first = 0
        for (floats, ints, surprise_S), counts_B in pending:
            to = order_B[first : first + len(counts_B)]
            first += len(counts_B)
            floats_2BX[:, to] = floats.cpu().numpy().reshape(2, len(to), -1)
            ints_BX[to] = ints.cpu().numpy()
            row_S = np.repeat(np.arange(len(to)), counts_B)
            total_B = np.bincount(row_S, surprise_S.cpu().numpy(), len(to))
            surprise_B[to] = total_B / np.maximum(counts_B, 1)
        embedding, p, churn, spend = np.split(
            floats_2BX, [dim, dim + known, dim + known + 1], axis=2
        )
        return Scores(
            embedding_before=embedding[0].copy(),
            embedding_after=embedding[1].copy(),
            interests_before=ints_BX[:, :known],
            interests_before_p=p[0],
            interests_after=ints_BX[:, known : 2 * known],
            interests_after_p=p[1],
            next_items=ints_BX[:, 2 * known :],
            churn_before=churn[0, :, 0],
            churn_after=churn[1, :, 0],
            spend_before=spend[0, :, 0],
            spend_after=spend[1, :, 0],
            surprise=surprise_B,
            batches=batches,
        )


class _Clock:
    """Times one pass; on a card between two events of its stream, so that nothing waits."""

    def __init__(self, device: torch.device, rows: int, length: int):
        self._rows, self._length = rows, length
        self._events = None
        if device.type == "cuda":
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self._events[0].record()
        self._started_s = time.perf_counter()
        self._milliseconds = 0.0

    def stop(self) -> None:
        if self._events:
            self._events[1].record()
        else:
            self._milliseconds = 1000 * (time.perf_counter() - self._started_s)

    def read(self) -> BatchTime:
        if self._events:
            self._events[1].synchronize()
            self._milliseconds = self._events[0].elapsed_time(self._events[1])
        return BatchTime(self._rows, self._length, self._milliseconds)
