"""Inference for the job: scores histories and windows of tokens in batches and times each batch.

One forward pass of the causal trunk gives the profile before and the profile after the window: the
state at the last event before the window does not depend on the window. Rows are sorted by length
and padded only to the longest of their group. Heads run only at the positions that need them.

Shape suffixes
    B rows (one user and window each)   2B rows before, then rows after their window
    P flat positions (models/profile/encoding.py)   N positions whose state is read
    S events of the windows   M a chunk of them, or items of repeat counts   F, R a subset of M
    D model width   C categories   I items   K best of them   X user features   O output columns
    7 fields of a token (models/profile/encoding.py)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from liveprofile.events.modalities import Vectors
from liveprofile.wire import memories as memory_format
from liveprofile.wire.memories import Memories, MemoryToken
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import TYPE_INDEX, Token
from models.profile import checkpoint
from models.profile.device import BatchTime, BatchTimer, Device, select_device
from models.profile.encoding import EncodedBatch, Encoder, Vocabulary
from models.profile.modality_layers import collate
from models.profile.network import BehaviourTransformer, expected_spend, top_k
from models.profile.ranking import MemoryRanker
from models.profile.user_features import FEATURE_NAMES, RepeatCounts
from models.profile.values.serving import CurvesAfter, score_curves

TOP_K = 10
SCRATCH_BYTES = 31 << 20
# Positions whose surprise is computed at a time on a CPU: their logits fit in a core's cache.
SURPRISE_CHUNK_POSITIONS = 1024


def in_bfloat16(model: BehaviourTransformer) -> BehaviourTransformer:
    """A bfloat16 copy of the model. Heads that read numbers stay float32."""
    converted = copy.deepcopy(model).bfloat16()
    converted.value_head = copy.deepcopy(model.value_head)
    converted.ranker = copy.deepcopy(model.ranker)
    converted.value_curves = copy.deepcopy(model.value_curves)
    return converted


class Scores(NamedTuple):
    """Scores of B rows in input order; float32 and int32 arrays.

    k = min(TOP_K, number of the model's names)
    """

    embedding_before: np.ndarray  # (B, d), unit length
    embedding_after: np.ndarray
    interests_before: np.ndarray  # (B, k) indexes into ProfileModel.categories, best first
    interests_before_p: np.ndarray  # (B, k) their probabilities
    interests_after: np.ndarray
    interests_after_p: np.ndarray
    next_items: np.ndarray  # (B, k) indexes into ProfileModel.items
    churn_before: np.ndarray  # (B,) probability of no purchase in the horizon
    churn_after: np.ndarray
    spend_before: np.ndarray  # (B,) expected, in currency, >= 0
    spend_after: np.ndarray
    surprise: np.ndarray  # (B,) mean negative log-likelihood in nats per event; 0 if no events
    batches: list[BatchTime]
    value_curves: CurvesAfter | None = None  # after the windows; None: the model has none


class InferenceBatchResult(NamedTuple):
    """The outputs of one forward pass of B rows, on the device."""

    floats_2BO: Tensor  # embedding, probabilities of interests, churn, spend
    ints_BO: Tensor  # interests before, interests after, next items
    after_BD: Tensor  # states after the windows
    fused_BD: Tensor  # those with the windows' vectors
    surprise_S: Tensor
    row_S: np.ndarray  # the row that each event belongs to


class ProfileModel:
    """A model checkpoint on a device. Not thread-safe."""

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
        self.max_len, self.dim = model.shape.max_len, model.shape.embedding
        self.modalities = frozenset(model.fusion.modalities)
        self._device = device
        self._model = model.to(device)
        self._batch_rows, self._length_buckets = batch_rows, tuple(length_buckets)
        self._k_categories, self._k_items = min(TOP_K, len(categories)), min(TOP_K, len(items))
        self._ranked_items = min(max(card["ranked_items"], TOP_K), len(items))
        self._ranker = MemoryRanker(self._model, items, categories, self._ranked_items, TOP_K)
        self._surprise_chunk = SURPRISE_CHUNK_POSITIONS if device.type == "cpu" else 1 << 30
        self._encoder = Encoder(
            Vocabulary(items, model.shape.item_buckets),
            Vocabulary(categories, model.shape.category_buckets),
            self.max_len,
            self.decay_days,
        )

    @property
    def items(self) -> list[str]:
        """The names that the indexes of the latest `Scores` refer to.

        The model's names come first, then ids that the memories held.
        """
        return self._ranker.items

    @property
    def categories(self) -> list[str]:
        """As `items`, for categories."""
        return self._ranker.categories

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
        """Loads a model checkpoint. It computes in bfloat16 on a GPU and in float32 on the CPU.

        `threads` sets torch's number of threads for the whole process. Raises InputError for an
        invalid checkpoint, ModelError for a missing device.
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
        """Scores one row of every length, so that the first real batch is as fast as later ones."""
        # glibc returns large blocks to the kernel at once until a larger block has been freed.
        # After this block (glibc's limit is 32 MiB) the scratch memory of forward passes stays
        # mapped and causes no page faults.
        torch.empty(SCRATCH_BYTES, dtype=torch.uint8)
        lengths = sorted({2, self.max_len, *(n for n in self._length_buckets if n < self.max_len)})
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
            memories=memory_format.of_windows([[(0, [MemoryToken(0, "", "")])]] * len(rows)),
        )

    def score(
        self,
        histories: TokenColumns,
        windows: TokenColumns,
        user_features_before_BX: np.ndarray,
        user_features_after_BX: np.ndarray,
        vectors: Sequence[Vectors] = (),
        memories: Memories | None = None,
        window_days: np.ndarray | float = 0.0,
    ) -> Scores:
        """Scores B rows. Row i of `histories` precedes row i of `windows`.

        user_features_before_BX, user_features_after_BX: user_features.feature_matrix at the
        windows' starts and ends. vectors: the modality vectors of each window, all of
        `modalities`; (): none. memories: of each user, the window included. None, or a model
        without a ranker: the trunk ranks items and categories. window_days: (B,) or one number.
        Churn and spend before the windows are those at their ends if no event came, if there are
        value curves, else those at their starts.
        """
        length_B = self._encoder.lengths(histories.sizes, windows.sizes)
        order_B = np.argsort(length_B, kind="stable")
        tokens = self._encoder.index_tokens(histories, windows)
        by_memory = memories is not None and self._model.ranker is not None
        results, timers = [], []
        with torch.inference_mode():
            fused_BD = self._fused(vectors) if self.modalities and any(vectors) else None
            for first in range(0, len(order_B), self._batch_rows):
                part_B = order_B[first : first + self._batch_rows]
                timer = BatchTimer(self._device, len(part_B), int(length_B[part_B[-1]]))
                batch = self._encoder.encode(tokens, part_B, self._length_buckets)
                user_features_2BX = np.concatenate(
                    [user_features_before_BX[part_B], user_features_after_BX[part_B]]
                )
                batch_fused_BD = None if fused_BD is None else fused_BD[torch.from_numpy(part_B)]
                results.append(self._forward(batch, user_features_2BX, batch_fused_BD, by_memory))
                timer.stop()
                timers.append(timer)
            scores = self._collect(results, order_B, [timer.read() for timer in timers])
            if not by_memory or not len(order_B):
                return scores
            input_order_B = torch.from_numpy(np.argsort(order_B))
            after_BD = torch.cat([result.after_BD for result in results])[input_order_B]
            if fused_BD is not None:
                fused_BD = torch.cat([result.fused_BD for result in results])[input_order_B]
            ranked = self._ranker.rank(memories, after_BD, fused_BD)
            scores = scores._replace(**ranked._asdict())
            if (head := self._model.value_curves) is None:
                return scores
            numbers_BX = (user_features_before_BX, user_features_after_BX)
            days_B = np.broadcast_to(window_days, len(order_B))
            curves = score_curves(head, self._ranker.windows(memories), numbers_BX, days_B)
            return scores._replace(**curves._asdict())

    def _fused(self, vectors: Sequence[Vectors]) -> Tensor:
        """(B, D) states of the windows' vectors."""
        return self._model.fusion(collate(vectors), len(vectors))

    def _forward(
        self,
        batch: EncodedBatch,
        user_features_2BX: np.ndarray,
        fused_BD: Tensor | None,
        by_memory: bool,
    ) -> InferenceBatchResult:
        rows = len(batch.before_B)
        # The state before the window predicts a window's first event, so the first events of all
        # windows come first in S and need no states of their own.
        row_S = np.repeat(np.arange(rows), batch.scored_counts_B)
        is_first_S = np.diff(row_S, prepend=-1) > 0
        order_S = np.argsort(~is_first_S, kind="stable")
        row_S, scored, firsts = row_S[order_S], len(row_S), int(is_first_S.sum())
        index = np.concatenate(
            [
                batch.before_B,
                batch.after_B,
                batch.scored_S[order_S[firsts:]],
                row_S,
                batch.category_S[order_S],
                batch.type_S[order_S],
            ]
        )
        repeat_counts_2BC = np.concatenate(
            [batch.repeat_counts_before_BC, batch.repeat_counts_after_BC]
        )
        embedding_rows_P7, index, repeat_counts_2BC, user_features_2BX = map(
            self._to_device, (batch.embedding_rows_P7, index, repeat_counts_2BC, user_features_2BX)
        )
        states = len(index) - 3 * scored
        flat_position_N, before_S, category_S, type_S = index.split(
            [states, scored, scored, scored]
        )

        model = self._model
        h_ND = model.trunk(embedding_rows_P7, batch.groups, flat_position_N)
        h_2BD = fused_2BD = h_ND[: 2 * rows]
        if fused_BD is not None:
            fused_2BD = torch.cat([h_2BD[:rows], h_2BD[rows:] + fused_BD])
        log_p_2BC = model.category_logits(fused_2BD, repeat_counts_2BC).float().log_softmax(1)
        log_p = [log_p_2BC[before_S[:firsts], category_S[:firsts]]]
        rest = [h_ND[2 * rows :], before_S[firsts:], category_S[firsts:]]
        parts = [column.split(self._surprise_chunk) for column in rest]
        for h_MD, row_M, category_M in zip(*parts, strict=True):
            repeat_counts_MC = repeat_counts_2BC.index_select(0, row_M)
            log_p_MC = model.category_logits(h_MD, repeat_counts_MC).float().log_softmax(1)
            log_p.append(log_p_MC.gather(1, category_M[:, None]).squeeze(1))
        rest_R = torch.arange(2 * rows, states, device=self._device)
        state_S = torch.cat([before_S[:firsts], rest_R])
        type_log_p = model.type_logits(h_ND).float().log_softmax(1)
        surprise_S = -(torch.cat(log_p) + type_log_p[state_S, type_S])

        named = slice(1, 1 + model.shape.categories)  # neither the unknown nor the hash buckets
        log_p_2BK, interest_2BK = top_k(log_p_2BC[:, named], TOP_K)
        churn_logit_2B, log_mean_2B, log_std_2B = model.values(h_2BD, user_features_2BX)
        churn_2B = churn_logit_2B.sigmoid()
        spend_2B = expected_spend(churn_2B, log_mean_2B, log_std_2B)
        if by_memory:  # the ranker replaces them
            item_BK = interest_2BK.new_zeros(rows, self._k_items)
        else:
            item_BK = self._next_items(fused_2BD[rows:], batch.item_repeat_counts)
        embeddings = model.embeddings(h_2BD)
        floats = torch.cat([embeddings, log_p_2BK.exp(), churn_2B[:, None], spend_2B[:, None]], 1)
        ints = torch.cat([interest_2BK[:rows], interest_2BK[rows:], item_BK], 1).int()
        after_BD, fused_BD = h_2BD[rows:], fused_2BD[rows:]
        return InferenceBatchResult(floats, ints, after_BD, fused_BD, surprise_S, row_S)

    def _next_items(self, h_BD: Tensor, counts: RepeatCounts) -> Tensor:
        """(B, K) best items, best first, among the ranked items and all items of the user's past.

        `counts` adds the repeat term to the logits. Items past the ranked ones are candidates only
        for users who already had them.
        """
        model, ranked, k = self._model, self._ranked_items, self._k_items
        item_M = counts.code_M - 1
        ranked_F, rare_R = np.flatnonzero(item_M < ranked), np.flatnonzero(item_M >= ranked)
        logit_index_F = counts.row_M[ranked_F] * ranked + item_M[ranked_F]
        # The n-th rare item of each row goes to column n.
        row_R, item_R = counts.row_M[rare_R], item_M[rare_R]
        rare_B = np.bincount(row_R, minlength=len(h_BD))
        column_R = np.arange(len(rare_R)) - np.repeat(np.cumsum(rare_B) - rare_B, rare_B)
        columns = int(rare_B.max())
        row_M, value_M, ranked_F, logit_index_F, rare_R, row_R, item_R, column_R = map(
            self._to_device,
            (
                counts.row_M,
                counts.value_M,
                ranked_F,
                logit_index_F,
                rare_R,
                row_R,
                item_R,
                column_R,
            ),
        )
        repeat_term_M = model.repeat_weights(h_BD)[1].float().squeeze(1)[row_M] * value_M
        logits_BI = model.item_logits(h_BD, slice(ranked)).float()
        logits_BI.view(-1).index_add_(0, logit_index_F, repeat_term_M[ranked_F])
        logit_BK, item_BK = top_k(logits_BI, k)
        shape = (len(h_BD), columns)
        rare_logits = h_BD.new_full(shape, -torch.inf, dtype=torch.float32)
        rare_logits[row_R, column_R] = (
            model.paired_item_logits(h_BD, item_R, row_R).float() + repeat_term_M[rare_R]
        )
        rare_items = item_BK.new_zeros(shape)
        rare_items[row_R, column_R] = item_R
        best_BK = torch.cat([logit_BK, rare_logits], 1).topk(k).indices
        return torch.cat([item_BK, rare_items], 1).gather(1, best_BK)

    def _to_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _collect(
        self,
        results: list[InferenceBatchResult],
        order_B: np.ndarray,
        batches: list[BatchTime],
    ) -> Scores:
        """Joins the results of all batches, in input order."""
        rows, dim = len(order_B), self.dim
        categories, items = self._k_categories, self._k_items
        floats = np.empty((2, rows, dim + categories + 2), np.float32)
        ints_BO = np.empty((rows, 2 * categories + items), np.int32)
        surprise_B = np.zeros(rows, np.float32)
        first = 0
        for result in results:
            to = order_B[first : first + len(result.ints_BO)]
            first += len(to)
            floats[:, to] = result.floats_2BO.cpu().numpy().reshape(2, len(to), -1)
            ints_BO[to] = result.ints_BO.cpu().numpy()
            total_B = np.bincount(result.row_S, result.surprise_S.cpu().numpy(), len(to))
            surprise_B[to] = total_B / np.bincount(result.row_S, minlength=len(to)).clip(min=1)
        embedding, p, churn, spend = np.split(
            floats, [dim, dim + categories, dim + categories + 1], axis=2
        )
        return Scores(
            embedding_before=embedding[0].copy(),
            embedding_after=embedding[1].copy(),
            interests_before=ints_BO[:, :categories],
            interests_before_p=p[0],
            interests_after=ints_BO[:, categories : 2 * categories],
            interests_after_p=p[1],
            next_items=ints_BO[:, 2 * categories :],
            churn_before=churn[0, :, 0],
            churn_after=churn[1, :, 0],
            spend_before=spend[0, :, 0],
            spend_after=spend[1, :, 0],
            surprise=surprise_B,
            batches=batches,
        )
