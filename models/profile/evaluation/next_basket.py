"""Measures a stored ranking against the set of items, or categories, of the user's next window.

A ranking is what a reader of the profile gets after a window: ten items or categories, best first.
Events of the next window are a set: neither their order nor their number counts. Returns are no
part of it, nor are events without an id.

The measures are NDCG@10 (Jarvelin and Kekalainen 2002, doi:10.1145/582415.582418), recall@10 and
the hit rate, also separately for what the user had before (repeat) and for the rest (explore), as
Li et al. 2023 (A Next Basket Recommendation Reality Check, arXiv:2109.14233) do: the ranking stays
the same, and only the repeated or the new members of the set are relevant. A window without such a
member does not count there.

Shape suffixes: N tokens of the streams, W windows to predict, M members of their sets, K places of
a ranking, C codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from liveprofile.wire.tokens import TYPE_INDEX
from models.profile.data.training_rows import Streams
from models.profile.encoding import concatenated_ranges
from models.profile.evaluation.intervals import UserBootstrap

PLACES = 10
SEED = 20170930
NO_CODE = -1  # an empty place, or a name that no event has
RETURN = TYPE_INDEX["return"]

Kind = Literal["item", "category"]
KINDS: tuple[Kind, ...] = ("item", "category")
PARTS = ("all", "repeat", "explore")


class NextBaskets(NamedTuple):
    """What each user had in the window that follows a stored ranking."""

    window_W: np.ndarray  # the window after which the ranking was stored
    user_W: np.ndarray
    row_M: np.ndarray  # 0..W-1, ascending
    code_M: np.ndarray  # ascending in each row, no code twice
    had_before_M: np.ndarray  # in `window_W` or earlier
    codes: int  # C

    def members(self, part: str) -> np.ndarray:
        """(M,) bool: the relevant members of a part: all, repeat or explore."""
        if part == "all":
            return np.ones_like(self.had_before_M)
        return self.had_before_M if part == "repeat" else ~self.had_before_M


class BasketScores(NamedTuple):
    """Scores of W rankings; NaN for a window without a relevant member."""

    ndcg_at_10: np.ndarray
    recall_at_10: np.ndarray
    hit_rate: np.ndarray


def next_baskets(streams: Streams, kind: Kind, windows: np.ndarray) -> NextBaskets:
    """The sets of `windows`, which must ascend, as targets of the rankings stored before them.

    Leaves out each user's first window, and windows whose events have no id.
    """
    baskets, user_W = Baskets.from_streams(streams, kind), streams.user_W
    user_L = user_W[baskets.window_L]
    key_L = user_L * baskets.codes + baskets.code_L
    key_K, first_K = np.unique(key_L, return_index=True)  # of each user and code
    follows_W = (windows > 0) & (user_W[windows] == user_W[np.maximum(windows - 1, 0)])
    windows = windows[follows_W]
    line_M = concatenated_ranges(baskets.first_W[windows], baskets.first_W[windows + 1])
    window_M, code_M = baskets.window_L[line_M], baskets.code_L[line_M]
    first_window_M = baskets.window_L[first_K][np.searchsorted(key_K, key_L[line_M])]
    target_W, row_M = np.unique(window_M, return_inverse=True)
    return NextBaskets(
        target_W - 1, user_W[target_W], row_M, code_M, first_window_M < window_M, baskets.codes
    )


def subset(targets: NextBaskets, most: int) -> NextBaskets:
    """At most `most` random windows of `targets`, always the same ones."""
    if len(targets.window_W) <= most:
        return targets
    rows = np.random.default_rng(SEED).choice(len(targets.window_W), most, replace=False)
    rows.sort()
    chosen_M = np.isin(targets.row_M, rows)
    return NextBaskets(
        targets.window_W[rows],
        targets.user_W[rows],
        np.searchsorted(rows, targets.row_M[chosen_M]),
        targets.code_M[chosen_M],
        targets.had_before_M[chosen_M],
        targets.codes,
    )


class Baskets(NamedTuple):
    """The windows of the streams as sets of L lines, without returns and events without an id."""

    user_W: np.ndarray
    end_ms_W: np.ndarray
    first_of_user_W: np.ndarray  # the user's first window
    first_W: np.ndarray  # (W + 1,) first line of each window
    code_L: np.ndarray  # ascending in each window
    events_L: np.ndarray  # events of the code in the window
    window_L: np.ndarray
    codes: int

    @classmethod
    def from_streams(cls, streams: Streams, kind: Kind) -> Baskets:
        code_N, names = streams.category_N, streams.categories
        if kind == "item":
            code_N, names = streams.item_N, streams.items
        windows, codes = len(streams.user_W), len(names)
        window_N = np.repeat(np.arange(windows), streams.last_W - streams.first_W)
        nameless = np.array([not name for name in names])
        used_N = ~nameless[code_N] & (streams.type_N != RETURN)
        pair_L, events_L = np.unique(window_N[used_N] * codes + code_N[used_N], return_counts=True)
        window_L, code_L = np.divmod(pair_L, codes)
        return cls(
            streams.user_W,
            streams.end_ms_W,
            np.searchsorted(streams.user_W, streams.user_W),
            np.searchsorted(window_L, np.arange(windows + 1)),
            code_L,
            events_L,
            window_L,
            codes,
        )

    def popularity(self, windows: np.ndarray) -> np.ndarray:
        """(C,) number of `windows` that contain each code."""
        line_E = concatenated_ranges(self.first_W[windows], self.first_W[windows + 1])
        return np.bincount(self.code_L[line_E], minlength=self.codes)


def codes_of(index_WK: np.ndarray, names: Sequence[str], all_names: Sequence[str]) -> np.ndarray:
    """(W, K) codes of a ranking whose numbers are indexes into `names`.

    all_names: the names of the streams' codes. A name without events, and a negative index, become
    NO_CODE.
    """
    code_of = {name: code for code, name in enumerate(all_names)}
    codes_V = np.array([*(code_of.get(name, NO_CODE) for name in names), NO_CODE])
    return codes_V[np.where(index_WK < 0, len(names), index_WK)]


def basket_scores(baskets: NextBaskets, ranking_WK: np.ndarray, part: str = "all") -> BasketScores:
    """Scores of rankings of codes, best first. Raises ValueError for a code that occurs twice."""
    ranking_WK = np.asarray(ranking_WK)[:, :PLACES]
    rows, places = ranking_WK.shape
    if rows != len(baskets.window_W):
        raise ValueError(f"{rows} rankings for {len(baskets.window_W)} windows")
    ordered_WK = np.sort(ranking_WK, axis=1)
    twice_WK = (np.diff(ordered_WK, axis=1) == 0) & (ordered_WK[:, 1:] != NO_CODE)
    if twice_WK.any():
        row = int(np.argmax(twice_WK.any(1)))
        raise ValueError(f"the ranking of row {row} has a code twice: {ranking_WK[row].tolist()}")
    relevant_M = baskets.members(part)
    size_W = np.bincount(baskets.row_M[relevant_M], minlength=rows)
    key_M = baskets.row_M[relevant_M] * baskets.codes + baskets.code_M[relevant_M]
    key_WK = np.arange(rows)[:, None] * baskets.codes + ranking_WK
    hit_WK = np.isin(key_WK, key_M) & (ranking_WK != NO_CODE)
    discount_K = 1 / np.log2(np.arange(PLACES) + 2.0)
    ideal = np.concatenate([[np.nan], discount_K.cumsum()])
    hits_W = hit_WK.sum(1)
    with np.errstate(invalid="ignore"):
        return BasketScores(
            hit_WK @ discount_K[:places] / ideal[np.minimum(size_W, PLACES)],
            np.where(size_W > 0, hits_W / np.maximum(size_W, 1), np.nan),
            np.where(size_W > 0, (hits_W > 0).astype(float), np.nan),
        )


def compare_rankings(
    baskets: NextBaskets, model_WK: np.ndarray, baselines: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Scores of the model and of each baseline, and the paired differences, by part.

    Each value is a mean over windows with the ends of its 95 % interval over users:
    `[value, low, high]`. `model_over` is the model minus the baseline. A part that no window has is
    None.
    """
    rankings = {"model": model_WK, **baselines}
    report: dict[str, Any] = {}
    for part in PARTS:
        scores = {name: basket_scores(baskets, each, part) for name, each in rankings.items()}
        counted_W = np.isfinite(scores["model"].hit_rate)
        if not counted_W.any():
            report[part] = None
            continue
        counted = {
            name: BasketScores(*(metric_W[counted_W] for metric_W in each))
            for name, each in scores.items()
        }
        user_W = baskets.user_W[counted_W]
        bootstrap, zero = UserBootstrap(user_W), BasketScores(*np.zeros((3, len(user_W))))
        report[part] = {
            "windows": len(user_W),
            "users": len(np.unique(user_W)),
            "relevant_per_window": round(float(baskets.members(part).sum() / len(user_W)), 2),
            "scores": {name: _means(bootstrap, each, zero) for name, each in counted.items()},
            "model_over": {
                name: _means(bootstrap, counted["model"], counted[name]) for name in baselines
            },
        }
    return report


def _means(
    bootstrap: UserBootstrap, first: BasketScores, second: BasketScores
) -> dict[str, list[float]]:
    return {
        metric: [round(value, 4) for value in bootstrap.mean(first_W, second_W)]
        for metric, first_W, second_W in zip(first._fields, first, second, strict=True)
    }
