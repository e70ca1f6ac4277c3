"""Training examples: what the model would see of a window when serving, with its labels.

Shape suffixes: W windows of the corpus, B segments (one window each), N tokens of all segments
together, P = B x T padded positions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from liveprofile.units import DAY_MS
from liveprofile.wire.tokens import TYPE_INDEX
from models.profile import user_features
from models.profile.data.external_sort import mapped
from models.profile.data.training_rows import Streams
from models.profile.encoding import (
    Layout,
    Vocabulary,
    bos_rows,
    feature_rows,
    hashed,
    kept_counts,
    spans,
)
from models.profile.user_features import Had

PURCHASE, VIEW = TYPE_INDEX["purchase"], TYPE_INDEX["view"]

# What `enrich` puts around a purchase: an assumption about shops, not a finding.
BEFORE_PURCHASE = {"view": 0.55, "cart": 0.2, "favorite": 0.08, "search": 0.08, "login": 0.04,
                   "coupon": 0.03, "campaign": 0.02}  # fmt: skip
AFTER_PURCHASE = {"review": 0.5, "share": 0.2, "return": 0.2, "follow": 0.1}
WITHOUT_ITEM = ("search", "login", "campaign", "follow")
BEFORE_COUNT_P = (0.3, 0.4, 0.3)  # of 0, 1 and 2 events before a purchase
AFTER_P, NOT_BOUGHT_P = 0.08, 0.25
MAX_PAUSE_S = 300.0


class Corpus(NamedTuple):
    """Streams in the model's rows, with each window's labels."""

    streams: Streams
    item_N: np.ndarray  # rows of the vocabulary
    item_hash_N: np.ndarray  # the row if the id were unknown
    category_N: np.ndarray
    category_hash_N: np.ndarray
    position_W: np.ndarray  # of the window among its user's
    purchases_W: np.ndarray  # purchases in (end, end + horizon]
    spend_W: np.ndarray  # and their amounts' sum
    horizon_ms: int

    def known_labels(self, windows: np.ndarray, until_ms: int) -> np.ndarray:
        """Which windows' horizon has passed by `until_ms`."""
        return self.streams.end_ms_W[windows] + self.horizon_ms <= until_ms


class Segments(NamedTuple):
    """B token sequences laid end to end, in order."""

    source_N: np.ndarray  # token of the corpus it is or was made from
    row_N: np.ndarray  # segment, 0..B-1
    type_N: np.ndarray
    amount_N: np.ndarray
    time_ms_N: np.ndarray
    bare_N: np.ndarray  # has neither item nor category
    scored_N: np.ndarray  # belongs to the segment's own window, not to its history
    from_B: np.ndarray  # the whole history's first token in the corpus ...
    to_B: np.ndarray  # ... and one past its last
    history_B: np.ndarray  # events of the whole history
    span_ms_B: np.ndarray  # from its first to its last

    @property
    def rows(self) -> int:
        return len(self.history_B)

    def pick(self, index: np.ndarray) -> Segments:
        """The tokens at these places of the same segments."""
        chosen = {name: getattr(self, name)[index] for name in self._fields if name[-1] == "N"}
        return self._replace(**chosen)


def build(streams: Streams, items: Vocabulary, categories: Vocabulary, horizon_days: int) -> Corpus:
    """Looks ids up and labels each window with what its user buys in the days after it.

    The arrays lie on disk, as those of the streams do.
    """
    tokens, windows = len(streams.item_N), len(streams.user_W)
    corpus = Corpus(
        streams=streams,
        item_N=mapped(tokens, np.int32),
        item_hash_N=mapped(tokens, np.int32),
        category_N=mapped(tokens, np.int32),
        category_hash_N=mapped(tokens, np.int32),
        position_W=mapped(windows, np.int64),
        purchases_W=mapped(windows, np.int64),
        spend_W=mapped(windows, np.float64),
        horizon_ms=horizon_days * DAY_MS,
    )
    item_rows, category_rows = items.indexes(streams.items), categories.indexes(streams.categories)
    item_hash_rows = _hash_rows(streams.items, items)
    category_hash_rows = _hash_rows(streams.categories, categories)
    for part_W, part_N in streams.parts():
        item_N, category_N = streams.item_N[part_N], streams.category_N[part_N]
        user_W, end_ms_W = streams.user_W[part_W], streams.end_ms_W[part_W]
        corpus.item_N[part_N] = item_rows[item_N]
        corpus.item_hash_N[part_N] = item_hash_rows[item_N]
        corpus.category_N[part_N] = category_rows[category_N]
        corpus.category_hash_N[part_N] = category_hash_rows[category_N]
        corpus.position_W[part_W] = np.arange(len(user_W)) - np.searchsorted(user_W, user_W)
        corpus.purchases_W[part_W], corpus.spend_W[part_W] = _bought(
            streams, part_W, part_N, user_W, end_ms_W, corpus.horizon_ms
        )
    return corpus


def cut(
    corpus: Corpus, windows: np.ndarray, history_windows_B: np.ndarray, max_len: int
) -> Segments:
    """The tokens that serving would keep of each window and of the windows before it."""
    streams = corpus.streams
    first_B, last_B = streams.first_W[windows], streams.last_W[windows]
    reach_B = np.minimum(history_windows_B, corpus.position_W[windows])
    all_history_B = first_B - streams.first_W[windows - reach_B]
    history_B, window_B = kept_counts(all_history_B, last_B - first_B, max_len)
    counts_B = history_B + window_B
    rank_N = _rank(counts_B)
    row_N = np.repeat(np.arange(len(windows)), counts_B)
    scored_N = rank_N >= history_B[row_N]
    from_history_N = (first_B - history_B)[row_N] + rank_N
    from_window_N = (last_B - counts_B)[row_N] + rank_N
    source_N = np.where(scored_N, from_window_N, from_history_N)
    history_start_B = streams.time_ms_N[first_B - all_history_B]
    history_end_B = streams.time_ms_N[np.maximum(first_B - 1, 0)]
    return Segments(
        source_N=source_N,
        row_N=row_N,
        type_N=streams.type_N[source_N],
        amount_N=streams.amount_N[source_N],
        time_ms_N=streams.time_ms_N[source_N],
        bare_N=np.zeros(len(source_N), bool),
        scored_N=scored_N,
        from_B=first_B - all_history_B,
        to_B=first_B,
        history_B=all_history_B,
        span_ms_B=np.where(all_history_B > 0, history_end_B - history_start_B, 0),
    )


def enrich(segments: Segments, share: float, max_len: int, random: np.random.Generator) -> Segments:
    """Turns a share of the segments into richer behaviour, so that every type and pace is trained.

    In them some purchases become mere views, views or carts and the like come before purchases,
    reviews or returns after, and events lie seconds to minutes apart. A model that has only ever
    seen purchases would otherwise meet untrained rows in a shop with other behaviour; it learns
    from context which kind of stream it reads. The other segments stay as they were.
    """
    rich_B = random.random(segments.rows) < share
    bought_N = rich_B[segments.row_N] & (segments.type_N == PURCHASE)
    size = len(bought_N)
    before_N = np.where(bought_N, random.choice(len(BEFORE_COUNT_P), size, p=BEFORE_COUNT_P), 0)
    after_N = np.where(bought_N, random.random(size) < AFTER_P, 0)
    copies_N = 1 + before_N + after_N
    origin_M = np.repeat(np.arange(size), copies_N)
    rank_M = _rank(copies_N)
    is_before_M, is_after_M = rank_M < before_N[origin_M], rank_M > before_N[origin_M]

    out = segments.pick(origin_M)
    type_M = np.where(is_before_M, _draw(BEFORE_PURCHASE, len(origin_M), random), out.type_N)
    type_M = np.where(is_after_M, _draw(AFTER_PURCHASE, len(origin_M), random), type_M)
    not_bought_N = bought_N & (random.random(size) < NOT_BOUGHT_P)
    type_M = np.where(not_bought_N[origin_M] & (type_M == PURCHASE), VIEW, type_M)
    added_M = is_before_M | is_after_M
    bare_types = [TYPE_INDEX[name] for name in WITHOUT_ITEM]
    pause_ms_M = 1000 * np.exp(random.uniform(0, np.log(MAX_PAUSE_S), len(origin_M)))
    elapsed_M = np.cumsum(np.where(rich_B[out.row_N], pause_ms_M, 0)).astype(np.int64)
    out = out._replace(
        type_N=type_M,
        amount_N=np.where(added_M | not_bought_N[origin_M], 0.0, out.amount_N),
        time_ms_N=out.time_ms_N + elapsed_M,
        bare_N=added_M & np.isin(type_M, bare_types),
    )
    counts_B = np.bincount(out.row_N, minlength=out.rows)
    growth_B = counts_B / np.bincount(segments.row_N, minlength=out.rows)
    out = out._replace(history_B=np.round(out.history_B * growth_B))
    return out.pick(_rank(counts_B) >= (counts_B - (max_len - 1))[out.row_N])


class Examples(NamedTuple):
    """Padded sequences and what each position should say. Item row 0: no target."""

    features_P7: np.ndarray
    length: int  # T; rows x T = P
    place_N: np.ndarray  # position of each token; the one before it predicts it
    item_N: np.ndarray  # rows of the vocabulary
    category_N: np.ndarray
    type_N: np.ndarray
    had_category_B: Had  # by row of the vocabulary, in the history of each segment
    had_item_B: Had


def examples(
    corpus: Corpus,
    segments: Segments,
    layout: Layout,
    decay_days: float,
    forgotten_share: float = 0.0,
    random: np.random.Generator | None = None,
) -> Examples:
    """Lays segments out for the model.

    With `random`, a share of the ids is forgotten for this batch, alike for all its events: read as
    their hash bucket, as if they were new in the shop, or (a tenth of the share) as no id at all.
    """
    ids = _Ids(corpus, layout, forgotten_share, random)
    item_N = np.where(segments.bare_N, 0, ids.items(segments.source_N))
    category_N = np.where(segments.bare_N, 0, ids.categories(segments.source_N))

    history_N = spans(segments.from_B, segments.to_B)
    sizes_B = segments.to_B - segments.from_B
    row_N = np.repeat(np.arange(segments.rows), sizes_B)
    time_ms_N = corpus.streams.time_ms_N[history_N]
    last_ms_B = corpus.streams.time_ms_N[np.maximum(segments.to_B - 1, 0)]
    weight_N = user_features.weights(time_ms_N, last_ms_B[row_N], decay_days)

    counts_B = np.bincount(segments.row_N, minlength=segments.rows)
    position_N = 1 + _rank(counts_B)
    length = 1 + int(counts_B.max())
    place_N = segments.row_N * length + position_N
    features_P7 = np.zeros((segments.rows * length, len(layout) - 1), np.int32)
    features_P7[::length] = bos_rows(layout, segments.history_B, segments.span_ms_B)
    features_P7[place_N] = feature_rows(
        layout, item_N, category_N, segments.type_N, segments.amount_N, segments.time_ms_N,
        position_N,
    )  # fmt: skip
    return Examples(
        features_P7,
        length,
        place_N,
        item_N,
        category_N,
        segments.type_N,
        user_features.had(
            row_N, ids.categories(history_N), weight_N, layout.type - layout.category
        ),
        user_features.had(row_N, ids.items(history_N), weight_N, layout.category),
    )


class _Ids:
    """Rows of the vocabulary as the model reads them in one batch."""

    def __init__(
        self, corpus: Corpus, layout: Layout, share: float, random: np.random.Generator | None
    ):
        self._corpus = corpus
        self._as_new = self._as_none = None
        if random is not None:
            forget = random.random(max(layout.category, layout.type - layout.category))
            self._as_new, self._as_none = forget < share, forget < 0.1 * share

    def items(self, source_N: np.ndarray) -> np.ndarray:
        return self._read(self._corpus.item_N, self._corpus.item_hash_N, source_N)

    def categories(self, source_N: np.ndarray) -> np.ndarray:
        return self._read(self._corpus.category_N, self._corpus.category_hash_N, source_N)

    def _read(self, row_N: np.ndarray, hash_N: np.ndarray, source_N: np.ndarray) -> np.ndarray:
        known_N = row_N[source_N]
        if self._as_new is None:
            return known_N
        new_N = np.where(self._as_new[known_N], hash_N[source_N], known_N)
        return np.where(self._as_none[known_N], 0, new_N)


def purchases_after(
    streams: Streams, windows: np.ndarray, at_ms: np.ndarray, horizon_ms: int
) -> tuple[np.ndarray, np.ndarray]:
    """Purchases of each window's user in (at, at + horizon], and what they sum to. `windows` must
    ascend."""
    purchases, spend = np.zeros(len(windows), np.int64), np.zeros(len(windows))
    for part_W, part_N in streams.parts():
        mine = slice(*np.searchsorted(windows, [part_W.start, part_W.stop]))
        user = streams.user_W[windows[mine]]
        found = _bought(streams, part_W, part_N, user, at_ms[mine], horizon_ms)
        purchases[mine], spend[mine] = found
    return purchases, spend


def _bought(
    streams: Streams,
    part_W: slice,
    part_N: slice,
    user_M: np.ndarray,
    at_ms_M: np.ndarray,
    horizon_ms: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The same of one part, which holds the users."""
    counts_W = streams.last_W[part_W] - streams.first_W[part_W]
    bought_N = streams.type_N[part_N] == PURCHASE
    user_N = np.repeat(streams.user_W[part_W], counts_W)[bought_N]
    time_ms_N, amount_N = streams.time_ms_N[part_N], streams.amount_N[part_N][bought_N]
    # One ascending key for (user, time); the span leaves room for a horizon past the last.
    start_ms, last_ms = int(time_ms_N.min()), int(time_ms_N.max())
    span_ms = max(last_ms, int(at_ms_M.max(initial=0))) - start_ms + horizon_ms + 1
    key_N = user_N * span_ms + time_ms_N[bought_N] - start_ms
    at_key_M = user_M * span_ms + at_ms_M - start_ms
    first_M = np.searchsorted(key_N, at_key_M, side="right")
    last_M = np.searchsorted(key_N, at_key_M + horizon_ms, side="right")
    # Each sum by itself: the last bits of a running total would tell of other users.
    pairs = np.column_stack([first_M, last_M]).ravel()
    spend_M = np.add.reduceat(np.append(amount_N, 0.0), pairs)[::2]
    return last_M - first_M, np.where(last_M > first_M, spend_M, 0.0)


def _hash_rows(names: list[str], vocabulary: Vocabulary) -> np.ndarray:
    known = len(vocabulary.names)
    rows = [hashed(name, known, vocabulary.buckets) if name else 0 for name in names]
    return np.array(rows, np.int32)


def _rank(counts_B: np.ndarray) -> np.ndarray:
    """0, 1, .. within each of the consecutive runs of these lengths."""
    return np.arange(counts_B.sum()) - np.repeat(np.cumsum(counts_B) - counts_B, counts_B)


def _draw(shares: dict[str, float], size: int, random: np.random.Generator) -> np.ndarray:
    types = [TYPE_INDEX[name] for name in shares]
    return random.choice(types, size, p=list(shares.values()))
