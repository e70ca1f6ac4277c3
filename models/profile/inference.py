"""The model as the job calls it: tokens in, profiles before and after out, batched and timed.

One pass of the causal trunk yields both sides: what stands at the last event before the window
knows nothing of the window. Rows are sorted by length and padded only to the longest of their
group, and heads run only at the positions that need them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from liveprofile.events.modalities import Vectors
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import TYPE_INDEX, Token
from models.profile import checkpoint
from models.profile.device import Device, device_of
from models.profile.encoding import Batch, Encoder, Vocabulary
from models.profile.modality_layers import gather
from models.profile.network import BehaviourTransformer, expected_spend, top_k
from models.profile.user_features import NUMBERS, Had

TOP = 10
SCRATCH_BYTES = 31 << 20
POSITIONS = 1024  # of surprise at a time on a CPU: their logits then stay in a core's cache


def in_bfloat16(model: BehaviourTransformer) -> BehaviourTransformer:
    """A copy of the model in bfloat16, except the value head: sums of money need float32."""
    converted = copy.deepcopy(model).bfloat16()
    converted.value_head = copy.deepcopy(model.value_head)
    return converted


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


class Pass(NamedTuple):
    """What one forward pass of B rows found, on the device."""

    floats_2BX: Tensor
    ints_BX: Tensor
    surprise_S: Tensor  # of each event of the windows ...
    row_S: np.ndarray  # ... and the row it belongs to


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
        self.decay_days: float = card["decay_days"]
        self.items, self.categories = items, categories
        self.max_len, self.dim = model.shape.max_len, model.shape.embedding
        self.modalities = frozenset(model.fusion.modalities)
        self._device = device
        self._model = model.to(device)
        self._batch_rows, self._length_buckets = batch_rows, tuple(length_buckets)
        self._ranked_items = min(max(card["ranked_items"], TOP), len(items))
        self._positions = POSITIONS if device.type == "cpu" else 1 << 30
        self._encoder = Encoder(
            Vocabulary(items, model.shape.item_buckets),
            Vocabulary(categories, model.shape.category_buckets),
            self.max_len,
            self.decay_days,
        )

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        device: Device = "auto",
        threads: int = 1,
        batch_rows: int = 512,
        length_buckets: Sequence[int] = (8, 16, 32),
    ) -> ProfileModel:
        """Loads a checkpoint; on a card it computes in bfloat16, on the CPU in float32.

        `threads` is torch's, so it holds for the whole process. Raises InputError for a bad folder,
        ModelError for a device that is not there.
        """
        chosen = device_of(device)
        torch.set_num_threads(threads)
        model, items, categories, card = checkpoint.load(Path(folder))
        return cls(
            in_bfloat16(model) if chosen.type == "cuda" else model,
            items,
            categories,
            card.model_dump(),
            device=chosen,
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
        numbers = np.zeros((len(rows), len(NUMBERS)), np.float32)
        self.score(
            TokenColumns.of([row[:-1] for row in rows]),
            TokenColumns.of([row[-1:] for row in rows]),
            numbers,
            numbers,
        )

    def score(
        self,
        histories: TokenColumns,
        windows: TokenColumns,
        before_BX: np.ndarray,
        after_BX: np.ndarray,
        vectors: Sequence[Vectors] = (),
    ) -> Scores:
        """Profiles of B users: row i of `histories` came before row i of `windows`.

        before_BX, after_BX: models.profile.user_features.numbers at the windows' starts and ends. vectors: what the
        windows bring beside their tokens, of one of `modalities` each; none: nothing.
        """
        length_B = self._encoder.lengths(histories.sizes, windows.sizes)
        order_B = np.argsort(length_B, kind="stable")
        known = self._encoder.known(histories, windows)
        passes, clocks = [], []
        with torch.inference_mode():
            fused_BD = self._fused(vectors) if self.modalities and any(vectors) else None
            for first in range(0, len(order_B), self._batch_rows):
                part_B = order_B[first : first + self._batch_rows]
                clock = _Clock(self._device, len(part_B), int(length_B[part_B[-1]]))
                batch = self._encoder.encode(known, part_B, self._length_buckets)
                numbers_2BX = np.concatenate([before_BX[part_B], after_BX[part_B]])
                some_BD = None if fused_BD is None else fused_BD[torch.from_numpy(part_B)]
                passes.append(self._forward(batch, numbers_2BX, some_BD))
                clock.stop()
                clocks.append(clock)
        return self._gather(passes, order_B, [clock.read() for clock in clocks])

    def _fused(self, vectors: Sequence[Vectors]) -> Tensor:
        """(B, D) of what the windows bring."""
        return self._model.fusion(gather(vectors), len(vectors))

    def _forward(self, batch: Batch, numbers_2BX: np.ndarray, fused_BD: Tensor | None) -> Pass:
        rows = len(batch.before_B)
        # A window's first event follows where its row stands before the window; then the others.
        row_S = np.repeat(np.arange(rows), batch.scored_counts_B)
        is_first_S = np.diff(row_S, prepend=-1) > 0
        order_S = np.argsort(~is_first_S, kind="stable")
        row_S, scored, firsts = row_S[order_S], len(row_S), int(is_first_S.sum())
        index = np.concatenate(
            [
                batch.before_B, batch.after_B, batch.scored_S[order_S[firsts:]],
                row_S, batch.category_S[order_S], batch.type_S[order_S],
            ]
        )  # fmt: skip
        had_2BC = np.concatenate([batch.had_before_BC, batch.had_after_BC])
        features_P7, index, had_2BC, numbers_2BX = map(
            self._to_device, (batch.features_P7, index, had_2BC, numbers_2BX)
        )
        places = len(index) - 3 * scored
        place_N, before_S, category_S, type_S = index.split([places, scored, scored, scored])

        model = self._model
        h_ND = model.trunk(features_P7, batch.groups, place_N)
        h_2BD = told_2BD = h_ND[: 2 * rows]
        if fused_BD is not None:
            told_2BD = torch.cat([h_2BD[:rows], h_2BD[rows:] + fused_BD])
        log_p_2BC = model.category_logits(told_2BD, had_2BC).float().log_softmax(1)
        log_p = [log_p_2BC[before_S[:firsts], category_S[:firsts]]]
        rest = [h_ND[2 * rows :], before_S[firsts:], category_S[firsts:]]
        parts = [column.split(self._positions) for column in rest]
        for h_MD, row_M, category_M in zip(*parts, strict=True):
            had_MC = had_2BC.index_select(0, row_M)
            log_p_MC = model.category_logits(h_MD, had_MC).float().log_softmax(1)
            log_p.append(log_p_MC.gather(1, category_M[:, None]).squeeze(1))
        rest_R = torch.arange(2 * rows, places, device=self._device)
        state_S = torch.cat([before_S[:firsts], rest_R])
        type_log_p_NK = model.type_logits(h_ND).float().log_softmax(1)
        surprise_S = -(torch.cat(log_p) + type_log_p_NK[state_S, type_S])

        named = slice(1, 1 + len(self.categories))  # neither the unknown nor the hash buckets
        log_p_2BK, interest_2BK = top_k(log_p_2BC[:, named], TOP)
        churn_logit_2B, log_mean_2B, log_std_2B = model.values(h_2BD, numbers_2BX)
        churn_2B = churn_logit_2B.sigmoid()
        spend_2B = expected_spend(churn_2B, log_mean_2B, log_std_2B)
        item_BK = self._next_items(told_2BD[rows:], batch.had_items)
        unit_2BE = model.embeddings(h_2BD)
        floats = torch.cat([unit_2BE, log_p_2BK.exp(), churn_2B[:, None], spend_2B[:, None]], 1)
        ints = torch.cat([interest_2BK[:rows], interest_2BK[rows:], item_BK], 1).int()
        return Pass(floats, ints, surprise_S, row_S)

    def _next_items(self, h_BD: Tensor, had: Had) -> Tensor:
        """(B, k) of the frequent items and all that the users had, likeliest first."""
        model, ranked, k = self._model, self._ranked_items, min(TOP, len(self.items))
        item_M = had.code_M - 1
        frequent_F, rare_R = np.flatnonzero(item_M < ranked), np.flatnonzero(item_M >= ranked)
        place_F = had.row_M[frequent_F] * ranked + item_M[frequent_F]
        # A row's first rare item, its second, ... come in columns of their own.
        row_R, item_R = had.row_M[rare_R], item_M[rare_R]
        rare_B = np.bincount(row_R, minlength=len(h_BD))
        nth_R = np.arange(len(rare_R)) - np.repeat(np.cumsum(rare_B) - rare_B, rare_B)
        columns = int(rare_B.max())
        row_M, value_M, frequent_F, place_F, rare_R, row_R, item_R, nth_R = map(
            self._to_device,
            (had.row_M, had.value_M, frequent_F, place_F, rare_R, row_R, item_R, nth_R),
        )
        more_M = model.repeats(h_BD)[1].float().squeeze(1)[row_M] * value_M
        logits_BI = model.item_logits(h_BD, slice(ranked)).float()
        logits_BI.view(-1).index_add_(0, place_F, more_M[frequent_F])
        logit_BK, item_BK = top_k(logits_BI, k)
        rare_BE = h_BD.new_full((len(h_BD), columns), -torch.inf, dtype=torch.float32)
        rare_BE[row_R, nth_R] = model.item_logit(h_BD, item_R, row_R).float() + more_M[rare_R]
        item_BE = item_BK.new_zeros(len(h_BD), columns)
        item_BE[row_R, nth_R] = item_R
        best_BK = torch.cat([logit_BK, rare_BE], 1).topk(k).indices
        return torch.cat([item_BK, item_BE], 1).gather(1, best_BK)

    def _to_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _gather(
        self,
        passes: list[Pass],
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
        for one in passes:
            to = order_B[first : first + len(one.ints_BX)]
            first += len(to)
            floats_2BX[:, to] = one.floats_2BX.cpu().numpy().reshape(2, len(to), -1)
            ints_BX[to] = one.ints_BX.cpu().numpy()
            total_B = np.bincount(one.row_S, one.surprise_S.cpu().numpy(), len(to))
            surprise_B[to] = total_B / np.bincount(one.row_S, minlength=len(to)).clip(min=1)
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
