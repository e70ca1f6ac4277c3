"""Inference for the job: scores histories and windows of tokens in passes.

One forward pass of the causal trunk gives the profile before and the profile after the window: the
state at the last event before the window does not depend on the window. Rows are sorted by length
and padded only to the longest of their group.

A GPU computes a pass while the CPU encodes the next one: results are read after the last one.

Shape suffixes as in models/profile/network.py; k places of a ranking.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from liveprofile.events.modalities import Vectors
from liveprofile.wire import histories as history_format
from liveprofile.wire.histories import Memories, MemoryToken
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import TYPE_INDEX, Token
from models.profile import checkpoint
from models.profile.device import Device, passes, select_device, to_device
from models.profile.encoding import EncodedBatch, Encoder, Vocabulary
from models.profile.network import BehaviourTransformer, PassResult, collate, forward
from models.profile.ranker.memory import MemoryReader
from models.profile.ranking import rank_memories
from models.profile.user_features import FEATURE_NAMES
from models.profile.values import CurvesAfter, score_curves

TOP_K = 10
RANKED_ROWS = 128  # at a time: their features fit in a core's cache
SCRATCH_BYTES = 31 << 20


def in_bfloat16(model: BehaviourTransformer) -> BehaviourTransformer:
    """A bfloat16 copy of the model. Heads that read numbers stay float32."""
    converted = copy.deepcopy(model).bfloat16()
    converted.ranker = copy.deepcopy(model.ranker)
    converted.value_curves = copy.deepcopy(model.value_curves)
    return converted


class Scores(NamedTuple):
    """Scores of B rows in input order; float32 and int64 arrays. k = TOP_K."""

    embedding_before: np.ndarray  # (B, d), unit length
    embedding_after: np.ndarray
    # (B, k) indexes into ProfileModel.categories, best first; -1: no more, and their p is 0
    interests_after: np.ndarray
    interests_after_p: np.ndarray  # (B, k) their probabilities
    next_items: np.ndarray  # (B, k) indexes into ProfileModel.items; -1: no more
    churn_before: np.ndarray  # (B,) probability of no purchase in the horizon
    churn_after: np.ndarray
    spend_before: np.ndarray  # (B,) expected, in currency, >= 0
    spend_after: np.ndarray
    # (B,) mean negative log-likelihood in nats of the events whose category the model has a name
    # for, of all if it has no names; 0 if there are none
    surprise: np.ndarray
    value_curves: CurvesAfter  # after the windows

    @classmethod
    def of_no_rows(cls) -> Scores:
        """The scores of an empty batch."""
        arrays = dict.fromkeys(cls._fields, np.empty((0, 0), np.float32))
        return cls(**arrays | {"value_curves": CurvesAfter([], [], {})})


class ProfileModel:
    """A model checkpoint on a device. Not thread-safe.

    batch_rows: of one pass, at most. run: computes a pass.
    """

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
        run: Callable[[BehaviourTransformer, EncodedBatch, torch.device], PassResult] = forward,
    ):
        self.card = card
        self.version: str = card["version"]
        self.revision: int = card["revision"]
        self.decay_days: float = card["decay_days"]
        self._recipe: dict[str, Any] = card.get("recipe", {})
        self.max_len, self.dim = model.shape.max_len, model.shape.embedding
        self.modalities = frozenset(model.fusion.modalities)
        self._device = device
        self._model = model.to(device)
        self._batch_rows, self._run = batch_rows, run
        self._lengths = (*(n for n in length_buckets if n < self.max_len), self.max_len)
        self.reader = MemoryReader(items, categories)
        self._encoder = Encoder(
            Vocabulary(items, model.shape.item_buckets),
            Vocabulary(categories, model.shape.category_buckets),
            self.max_len,
            self.decay_days,
        )

    @property
    def history_windows(self) -> int:
        """How many windows before the current one it reads event by event."""
        return self._recipe["history_windows"]

    @property
    def items(self) -> list[str]:
        """The names that the indexes of the latest `Scores` refer to.

        The model's names come first, then ids that the memories held.
        """
        return self.reader.items

    @property
    def categories(self) -> list[str]:
        """As `items`, for categories."""
        return self.reader.categories

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        device: Device = "auto",
        threads: int = 1,
        batch_rows: int = 512,
        length_buckets: Sequence[int] = (6, 8, 10, 12, 16, 20, 24, 32),
    ) -> ProfileModel:
        """Loads a model checkpoint. It computes in bfloat16 on a GPU and in float32 on the CPU.

        `threads` sets torch's number of threads for the whole process. Raises InputError for an
        invalid checkpoint, ModelError for a missing device, torch.OutOfMemoryError.
        """
        chosen = select_device(device)
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

    def with_revision(self, revision: int) -> ProfileModel:
        """A copy for another deployment, which shares the weights."""
        copied = copy.copy(self)
        copied.revision = revision
        return copied

    def warm_up(self) -> Scores:
        """Scores one row of every length, so that the first real batch is as fast as later ones.

        On a GPU it also scores a whole pass of the longest rows, which takes the memory that later
        passes need. Raises torch.OutOfMemoryError.
        """
        # glibc returns large blocks to the kernel at once until a larger block has been freed.
        # After this block (glibc's limit is 32 MiB) the scratch memory of forward passes stays
        # mapped and causes no page faults.
        torch.empty(SCRATCH_BYTES, dtype=torch.uint8)
        lengths = sorted({2, *self._lengths})
        if self._device.type == "cuda":
            lengths += [self.max_len] * self._batch_rows
        rows = [
            [Token(1_500_000_000_000 + i, TYPE_INDEX["view"], "", "", 0.0) for i in range(n - 1)]
            for n in lengths
        ]
        user_features_BX = np.zeros((len(rows), len(FEATURE_NAMES)), np.float32)
        return self.score(
            TokenColumns.of([row[:-1] for row in rows]),
            TokenColumns.of([row[-1:] for row in rows]),
            user_features_BX,
            user_features_BX,
            (),
            history_format.of_windows([[(0, [MemoryToken(0, "", "")])]] * len(rows)),
        )

    def score(
        self,
        histories: TokenColumns,
        windows: TokenColumns,
        user_features_before_BX: np.ndarray,
        user_features_after_BX: np.ndarray,
        vectors: Sequence[Vectors],
        memories: Memories,
        window_days: np.ndarray | float = 0.0,
    ) -> Scores:
        """Scores B rows. Row i of `histories` precedes row i of `windows`.

        user_features_before_BX, user_features_after_BX: user_features.feature_matrix at the
        windows' starts and ends. vectors: the modality vectors of each window, all of
        `modalities`; (): none. memories: of each user, the window included. window_days: (B,) or
        one number. Churn and spend before the windows are those at their ends if no event came.
        """
        rows = len(histories.sizes)
        if not rows:
            return Scores.of_no_rows()
        length_B = self._encoder.lengths(histories.sizes, windows.sizes)
        order_B = np.argsort(length_B, kind="stable")
        tokens = self._encoder.index_tokens(histories, windows)
        with torch.inference_mode():
            parts = [order_B[part] for part in passes(rows, self._batch_rows)]
            results = [
                self._run(
                    self._model, self._encoder.encode(tokens, part_B, self._lengths), self._device
                )
                for part_B in parts
            ]
            input_order_B = to_device(np.argsort(order_B), self._device)
            after_BD = torch.cat([result.after_BD for result in results])[input_order_B]
            states = None
            if self.modalities and any(vectors):
                states = after_BD, after_BD + self._model.fusion(collate(vectors), rows)
            indexed = self.reader.index(memories)
            memory_parts = indexed.parts(RANKED_ROWS)
            ranking = rank_memories(self._model, self.reader, memory_parts, states, TOP_K)
            curves = score_curves(
                self._model.value_curves,
                indexed.windows(),
                (user_features_before_BX, user_features_after_BX),
                np.broadcast_to(window_days, rows),
            )
            embedding_2BE = np.empty((2, rows, self.dim), np.float32)
            surprise_B = np.zeros(rows, np.float32)
            for part_B, result in zip(parts, results, strict=True):
                size = len(part_B)
                embedding_2BE[:, part_B] = result.embedding_2BE.cpu().numpy().reshape(2, size, -1)
                total_B = np.bincount(result.row_S, result.surprise_S.cpu().numpy(), size)
                counts_B = np.bincount(result.row_S, minlength=size)
                surprise_B[part_B] = total_B / counts_B.clip(min=1)
        return Scores(
            embedding_before=embedding_2BE[0].copy(),
            embedding_after=embedding_2BE[1].copy(),
            surprise=surprise_B,
            **ranking,
            **curves,
        )
