"""Training examples: the inputs that serving would compute for a window.

Shape suffixes
    W windows of the corpus   B sequences (one window each)   N tokens of all sequences together
    M augmented tokens   T positions of a padded sequence
    P = B x T flat positions   7 fields of a token (models/profile/encoding.py)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from liveprofile.wire.tokens import TYPE_INDEX
from models.profile.data.training_rows import Streams
from models.profile.encoding import (
    Layout,
    Vocabulary,
    bos_rows,
    concatenated_ranges,
    embedding_rows,
    hash_row,
    history_weights,
    index_in_run,
    kept_tokens,
    spans_ms,
)
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe

PURCHASE, VIEW = TYPE_INDEX["purchase"], TYPE_INDEX["view"]

# Probabilities of the event types that `augment` adds around a purchase. They are assumptions about
# shops, not measured.
BEFORE_PURCHASE = {
    **{"view": 0.55, "cart": 0.2, "favorite": 0.08, "search": 0.08},
    **{"login": 0.04, "coupon": 0.03, "campaign": 0.02},
}
AFTER_PURCHASE = {"review": 0.5, "share": 0.2, "return": 0.2, "follow": 0.1}
WITHOUT_ITEM = ("search", "login", "campaign", "follow")
EVENTS_BEFORE_P = (0.3, 0.4, 0.3)  # probabilities of 0, 1 and 2 events before a purchase
EVENT_AFTER_P, NO_PURCHASE_P = 0.08, 0.25
MAX_PAUSE_S = 300.0


class Corpus(NamedTuple):
    """Streams with the vocabulary rows of their I items and C categories."""

    streams: Streams
    item_row_I: np.ndarray  # row of the vocabulary
    item_bucket_I: np.ndarray  # row of the item's hash bucket
    category_row_C: np.ndarray
    category_bucket_C: np.ndarray
    position_W: np.ndarray  # index of the window among the windows of its user


class Sequences(NamedTuple):
    """B token sequences laid end to end, in order."""

    source_N: np.ndarray  # the token's (or its original's) index in the corpus
    row_N: np.ndarray  # sequence of the token, 0..B-1
    type_N: np.ndarray
    amount_N: np.ndarray
    time_ms_N: np.ndarray
    without_ids_N: np.ndarray  # the token has neither item nor category
    scored_N: np.ndarray  # the token belongs to the window, not to the history before it
    history_first_B: np.ndarray  # first token of the whole history in the corpus
    history_end_B: np.ndarray  # one past its last token
    history_B: np.ndarray  # number of events of the whole history
    span_ms_B: np.ndarray  # time from its first to its last event

    @property
    def rows(self) -> int:
        return len(self.history_B)

    def take(self, index: np.ndarray) -> Sequences:
        """The tokens at `index`, in the same B sequences."""
        chosen = {name: getattr(self, name)[index] for name in self._fields if name[-1] == "N"}
        return self._replace(**chosen)


def build_corpus(streams: Streams, items: Vocabulary, categories: Vocabulary) -> Corpus:
    """Looks up the ids of the streams."""
    return Corpus(
        streams,
        items.indexes(streams.items),
        _hash_rows(streams.items, items),
        categories.indexes(streams.categories),
        _hash_rows(streams.categories, categories),
        np.arange(len(streams.user_W)) - np.searchsorted(streams.user_W, streams.user_W),
    )


def slice_sequences(
    corpus: Corpus,
    windows: np.ndarray,
    history_windows_B: np.ndarray,
    max_len: int,
    random: np.random.Generator | None = None,
) -> Sequences:
    """The tokens that serving would keep of each window and of its `history_windows_B` windows.

    With `random`, events of one time are in random order, also where some of them are not kept:
    they are a set, and a model must not learn from their order.
    """
    streams = corpus.streams
    first_B, last_B = streams.first_W[windows], streams.last_W[windows]
    previous_B = np.minimum(history_windows_B, corpus.position_W[windows])
    history_first_B = streams.first_W[windows - previous_B]
    kept = kept_tokens(history_first_B, first_B, first_B, last_B, max_len)
    source_N = kept.source_N
    if random is not None:
        source_N = _with_shuffled_ties(streams, history_first_B, last_B, source_N, random)
    return Sequences(
        source_N=source_N,
        row_N=kept.row_N,
        type_N=streams.type_N[source_N],
        amount_N=streams.amount_N[source_N],
        time_ms_N=streams.time_ms_N[source_N],
        without_ids_N=np.zeros(len(source_N), bool),
        scored_N=kept.scored_N,
        history_first_B=history_first_B,
        history_end_B=first_B,
        history_B=first_B - history_first_B,
        span_ms_B=spans_ms(streams.time_ms_N, history_first_B, first_B),
    )


def _with_shuffled_ties(
    streams: Streams,
    first_B: np.ndarray,
    end_B: np.ndarray,
    source_N: np.ndarray,
    random: np.random.Generator,
) -> np.ndarray:
    """`source_N` after a random permutation of the tokens of each time in first_B..end_B - 1.

    Ranges may overlap: a token has one place in the permutation of all.
    """
    token_T = np.unique(concatenated_ranges(first_B, end_B))
    window_T = np.searchsorted(streams.last_W, token_T, side="right")
    order_T = np.lexsort((random.random(len(token_T)), streams.time_ms_N[token_T], window_T))
    return token_T[order_T][np.searchsorted(token_T, source_N)]


def augment(
    sequences: Sequences, share: float, max_len: int, random: np.random.Generator
) -> Sequences:
    """Augments a share of the sequences, so that the model trains on all event types and gaps.

    In those, some purchases become views, events such as views or carts are added before purchases
    and events such as reviews or returns after them, and events are seconds to minutes apart. A
    model trained on purchases only would have untrained embedding rows in a shop with other
    behaviour. The model infers the kind of stream from context. The other sequences do not change.
    """
    augmented_B = random.random(sequences.rows) < share
    purchase_N = augmented_B[sequences.row_N] & (sequences.type_N == PURCHASE)
    size = len(purchase_N)
    before_N = np.where(purchase_N, random.choice(len(EVENTS_BEFORE_P), size, p=EVENTS_BEFORE_P), 0)
    after_N = np.where(purchase_N, random.random(size) < EVENT_AFTER_P, 0)
    copies_N = 1 + before_N + after_N
    origin_M = np.repeat(np.arange(size), copies_N)
    rank_M = index_in_run(copies_N)
    is_before_M, is_after_M = rank_M < before_N[origin_M], rank_M > before_N[origin_M]

    out = sequences.take(origin_M)
    type_M = np.where(is_before_M, _draw_types(BEFORE_PURCHASE, len(origin_M), random), out.type_N)
    type_M = np.where(is_after_M, _draw_types(AFTER_PURCHASE, len(origin_M), random), type_M)
    not_bought_N = purchase_N & (random.random(size) < NO_PURCHASE_P)
    type_M = np.where(not_bought_N[origin_M] & (type_M == PURCHASE), VIEW, type_M)
    added_M = is_before_M | is_after_M
    types_without_ids = [TYPE_INDEX[name] for name in WITHOUT_ITEM]
    pause_ms_M = 1000 * np.exp(random.uniform(0, np.log(MAX_PAUSE_S), len(origin_M)))
    elapsed_ms_M = np.cumsum(np.where(augmented_B[out.row_N], pause_ms_M, 0)).astype(np.int64)
    out = out._replace(
        type_N=type_M,
        amount_N=np.where(added_M | not_bought_N[origin_M], 0.0, out.amount_N),
        time_ms_N=out.time_ms_N + elapsed_ms_M,
        without_ids_N=added_M & np.isin(type_M, types_without_ids),
    )
    counts_B = np.bincount(out.row_N, minlength=out.rows)
    growth_B = counts_B / np.bincount(sequences.row_N, minlength=out.rows)
    out = out._replace(history_B=np.round(out.history_B * growth_B))
    return out.take(index_in_run(counts_B) >= (counts_B - (max_len - 1))[out.row_N])


class TrainingBatch(NamedTuple):
    """Padded sequences and the targets of their positions. Item row 0: no target."""

    embedding_rows_P7: np.ndarray
    length: int  # T
    flat_position_N: np.ndarray  # of each token; the position before it predicts the token
    item_N: np.ndarray  # rows of the vocabulary
    category_N: np.ndarray
    type_N: np.ndarray
    category_repeat_counts: csr_array  # of the whole history of each sequence, by vocabulary row
    item_repeat_counts: csr_array


def build_batch(
    corpus: Corpus,
    sequences: Sequences,
    layout: Layout,
    decay_days: float,
    forgotten_share: float = 0.0,
    random: np.random.Generator | None = None,
) -> TrainingBatch:
    """Pads sequences and encodes them for the model.

    With `random`, applies id dropout: in the whole batch, a share of the ids is read as their hash
    bucket, as if they were new in the shop, or (a tenth of the share) as no id.
    """
    ids = _VocabularyRows(corpus, layout, forgotten_share, random)
    item_N = np.where(sequences.without_ids_N, 0, ids.items(sequences.source_N))
    category_N = np.where(sequences.without_ids_N, 0, ids.categories(sequences.source_N))

    history_N, row_N, weight_N = history_weights(
        corpus.streams.time_ms_N, sequences.history_first_B, sequences.history_end_B, decay_days
    )
    counts_B = np.bincount(sequences.row_N, minlength=sequences.rows)
    position_N = 1 + index_in_run(counts_B)
    length = 1 + int(counts_B.max())
    flat_position_N = sequences.row_N * length + position_N
    embedding_rows_P7 = np.zeros((sequences.rows * length, len(layout) - 1), np.int32)
    embedding_rows_P7[::length] = bos_rows(layout, sequences.history_B, sequences.span_ms_B)
    embedding_rows_P7[flat_position_N] = embedding_rows(
        layout,
        item_N,
        category_N,
        sequences.type_N,
        sequences.amount_N,
        sequences.time_ms_N,
        position_N,
    )
    categories, items = layout.type - layout.category, layout.category
    return TrainingBatch(
        embedding_rows_P7,
        length,
        flat_position_N,
        item_N,
        category_N,
        sequences.type_N,
        _repeat_counts(row_N, ids.categories(history_N), weight_N, (sequences.rows, categories)),
        _repeat_counts(row_N, ids.items(history_N), weight_N, (sequences.rows, items)),
    )


def _repeat_counts(
    row_N: np.ndarray, code_N: np.ndarray, weight_N: np.ndarray, shape: tuple[int, int]
) -> csr_array:
    """float32 log(1 + sum of the weights) of each row and code; code 0 (no id) counts 0."""
    has_id_N = code_N > 0
    counts = csr_array((weight_N[has_id_N], (row_N[has_id_N], code_N[has_id_N])), shape)
    counts.data = np.log1p(counts.data).astype(np.float32)
    return counts


class _VocabularyRows:
    """Vocabulary rows of tokens in one batch, with id dropout."""

    def __init__(
        self, corpus: Corpus, layout: Layout, share: float, random: np.random.Generator | None
    ):
        self._corpus, self._share = corpus, share
        rows = max(layout.category, layout.type - layout.category)
        self._draw = random and random.random(rows)  # by vocabulary row

    def items(self, source_N: np.ndarray) -> np.ndarray:
        corpus = self._corpus
        code_N = corpus.streams.item_N[source_N]
        return self._read(corpus.item_row_I[code_N], corpus.item_bucket_I[code_N])

    def categories(self, source_N: np.ndarray) -> np.ndarray:
        corpus = self._corpus
        code_N = corpus.streams.category_N[source_N]
        return self._read(corpus.category_row_C[code_N], corpus.category_bucket_C[code_N])

    def _read(self, row_N: np.ndarray, bucket_N: np.ndarray) -> np.ndarray:
        if self._draw is None:
            return row_N
        draw_N = self._draw[row_N]
        hashed_N = np.where(draw_N < self._share, bucket_N, row_N)
        return np.where(draw_N < 0.1 * self._share, 0, hashed_N)


def _hash_rows(names: list[str], vocabulary: Vocabulary) -> np.ndarray:
    size = len(vocabulary.names)
    rows = [hash_row(name, size, vocabulary.buckets) if name else 0 for name in names]
    return np.array(rows, np.int32)


def _draw_types(
    probabilities: dict[str, float], size: int, random: np.random.Generator
) -> np.ndarray:
    types = [TYPE_INDEX[name] for name in probabilities]
    return random.choice(types, size, p=list(probabilities.values()))


BATCH_ROWS = 100  # small, since callers may rank all items for each event of a batch


class TrunkOutput(NamedTuple):
    """The windows of one batch, their inputs and the trunk's states."""

    windows: np.ndarray  # (B,) indexes into the corpus
    sequences: Sequences
    batch: TrainingBatch
    h_PD: Tensor

    def last_states(self) -> Tensor:
        """(B, D) states after the last event of each window."""
        batch = self.batch
        last_B = np.searchsorted(
            batch.flat_position_N, batch.length * np.arange(1, len(self.windows) + 1)
        )
        return self.h_PD[torch.from_numpy(batch.flat_position_N[last_B - 1])]


def run_trunk(
    model: BehaviourTransformer, corpus: Corpus, windows: np.ndarray, recipe: Recipe
) -> Iterator[TrunkOutput]:
    """Yields the trunk's output for `windows`, in inference mode on the CPU."""
    with torch.inference_mode():
        for first in range(0, len(windows), BATCH_ROWS):
            part = windows[first : first + BATCH_ROWS]
            history_B = np.full(len(part), recipe.history_windows)
            sequences = slice_sequences(corpus, part, history_B, recipe.max_len)
            batch = build_batch(corpus, sequences, model.shape.layout, recipe.decay_days)
            groups = [(0, sequences.rows, batch.length)]
            h_PD = model.trunk(torch.from_numpy(batch.embedding_rows_P7), groups)
            yield TrunkOutput(part, sequences, batch, h_PD)
