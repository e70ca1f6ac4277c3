"""Moments at which profiles are read: any time, for every user seen so far.

A profile is read between a user's windows, also months after the last one. The label of a moment is
what the user does in the horizon after it; what is known is the user's last closed window.

Shape suffixes: M moments or users, each at a given time; W windows of the corpus; F user features;
X inputs of the value curves.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from liveprofile.features import baselines
from liveprofile.features.baselines import SUMS
from liveprofile.units import DAY_MS
from liveprofile.wire.histories import MEMORY_WINDOWS
from models.profile import user_features
from models.profile.data.examples import PURCHASE, Corpus
from models.profile.data.prepared import Split
from models.profile.data.training_rows import Streams
from models.profile.recipes import Recipe
from models.profile.values import PurchaseWindows, curve_inputs

HORIZONS_DAYS = (7, 30, 90)


def moment_ranges_ms(
    streams: Streams, split: Split, horizon_days: int
) -> tuple[tuple[int, int], ...]:
    """(after, until] of the moments of training, validation and test.

    A moment of validation or test belongs to the part in which its horizon ends. The horizons of
    training end before the first of validation begins (purging: Lopez de Prado 2018, Advances in
    Financial Machine Learning, chapter 7). Otherwise a user's last training moments and first
    validation moments have nearly the same inputs and labels, and a model that learns users by
    heart gains.
    """
    start_ms, horizon_ms = int(streams.end_ms_W.min()) - 1, horizon_days * DAY_MS
    ends_ms = (split.train_until_ms, split.validation_until_ms, split.test_until_ms)
    first_ms, validation_ms, test_ms = (max(end - horizon_ms, start_ms) for end in ends_ms)
    return (
        (start_ms, max(first_ms - horizon_ms, start_ms)),
        (first_ms, validation_ms),
        (validation_ms, test_ms),
    )


class Moments(NamedTuple):
    """M moments, ordered by window and time."""

    window_M: np.ndarray  # the user's last window that has ended by then
    at_ms_M: np.ndarray

    @classmethod
    def at(cls, streams: Streams, at_ms: int) -> Moments:
        """One time, for every user seen by then."""
        seen = np.flatnonzero(streams.end_ms_W <= at_ms)
        last = seen[np.diff(streams.user_W[seen], append=-1) != 0]
        return cls(last, np.full(len(last), at_ms))

    @classmethod
    def draw(
        cls, streams: Streams, after_ms: int, until_ms: int, per_user: int, seed: int
    ) -> Moments:
        """Month ends, and `per_user` random times of each user, in (after_ms, until_ms].

        A user's times begin with the end of the user's first window.
        """
        parts = [cls.at(streams, at_ms) for at_ms in month_ends(after_ms, until_ms)]
        seen = cls.at(streams, until_ms).window_M
        first = np.searchsorted(streams.user_W, streams.user_W[seen])
        since_ms = np.maximum(streams.end_ms_W[first], after_ms)
        share = np.random.default_rng(seed).random((per_user, len(seen)))
        at_ms = until_ms - (share * (until_ms - since_ms)).astype(np.int64)
        parts += [cls(_last_windows(streams, seen, each), each) for each in at_ms]
        window_M, at_ms_M = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((at_ms_M, window_M))
        return cls(window_M[order], at_ms_M[order])


class Outcomes(NamedTuple):
    """What users did in the horizon after M moments."""

    churned_M: np.ndarray  # no purchase
    spend_M: np.ndarray  # currency
    days_M: np.ndarray  # days to the next purchase, at most the horizon


def outcomes(streams: Streams, moments: Moments, horizon_days: float) -> Outcomes:
    """What the users of the moments' windows buy in (at, at + horizon]."""
    horizon_ms, at_ms_M = round(horizon_days * DAY_MS), moments.at_ms_M
    token_N = np.flatnonzero(streams.type_N == PURCHASE)
    user_N = streams.user_W[np.searchsorted(streams.last_W, token_N, side="right")]
    time_ms_N, amount_N = streams.time_ms_N[token_N], streams.amount_N[token_N]
    # One ascending key for (user, time). The span includes a horizon after the last time.
    start_ms, last_ms = int(streams.time_ms_N.min()), int(streams.time_ms_N.max())
    span_ms = max(last_ms, int(at_ms_M.max(initial=0))) - start_ms + horizon_ms + 1
    key_N = user_N * span_ms + time_ms_N - start_ms
    key_M = streams.user_W[moments.window_M] * span_ms + at_ms_M - start_ms
    first_M = np.searchsorted(key_N, key_M, side="right")
    last_M = np.searchsorted(key_N, key_M + horizon_ms, side="right")
    buys_M = last_M > first_M
    # Separate sums: differences of a running total would depend on other users in the last bits.
    pairs = np.column_stack([first_M, last_M]).ravel()
    spend_M = np.where(buys_M, np.add.reduceat(np.append(amount_N, 0.0), pairs)[::2], 0.0)
    days_M = (np.append(time_ms_N, 0)[first_M] - at_ms_M) / DAY_MS
    return Outcomes(~buys_M, spend_M, np.where(buys_M, days_M, float(horizon_days)))


def month_ends(after_ms: int, until_ms: int) -> list[int]:
    """The first milliseconds of the months (UTC) in (after_ms, until_ms]."""
    first, last = (np.datetime64(int(ms), "ms").astype("M8[M]") for ms in (after_ms, until_ms))
    return np.arange(first + 1, last + 1).astype("M8[ms]").astype(int).tolist()


def _last_windows(streams: Streams, of_user: np.ndarray, at_ms: np.ndarray) -> np.ndarray:
    """The last window that has ended by at_ms[i], of the user of window of_user[i]."""
    start_ms = int(streams.end_ms_W.min())
    span_ms = int(max(streams.end_ms_W.max(), at_ms.max(initial=0))) - start_ms + 1
    key_W = streams.user_W * span_ms + streams.end_ms_W - start_ms
    key = streams.user_W[of_user] * span_ms + at_ms - start_ms
    return np.searchsorted(key_W, key, side="right") - 1


AMOUNT, EVENTS = SUMS.index("amount"), SUMS.index("events")


def user_features_at(
    corpus: Corpus, recipe: Recipe, windows: np.ndarray, at_ms: np.ndarray
) -> np.ndarray:
    """(M, F) float32 `user_features.feature_matrix` of the windows' users at `at_ms`."""
    streams = corpus.streams
    base = baselines.read_baselines(streams.sums_WS[windows], at_ms, recipe.decay_days)
    first = windows - np.minimum(corpus.position_W[windows], recipe.history_windows)
    total = {
        column: np.concatenate([[0.0], np.cumsum(streams.added_WS[:, column])])
        for column in (EVENTS, AMOUNT)
    }
    events, amount = (total[c][windows + 1] - total[c][first] for c in (EVENTS, AMOUNT))
    days = (at_ms - streams.time_ms_N[streams.first_W[first]]) / DAY_MS
    recency = user_features.recency_days(at_ms, streams.last_purchase_ms_W[windows])
    return user_features.feature_matrix(
        base, recency, user_features.ActivitySummary(days, events, amount)
    )


def inputs_at(corpus: Corpus, recipe: Recipe, windows: np.ndarray, at_ms: np.ndarray) -> np.ndarray:
    """(M, X) inputs of the curves for the windows' users at times from the windows' ends on."""
    streams = corpus.streams
    bought_N = (streams.type_N == PURCHASE).astype(np.int64)
    purchases_W = np.add.reduceat(bought_N, streams.first_W)
    bought, before_W = PurchaseWindows.of(streams.user_W, streams.end_ms_W, purchases_W)
    first = windows - np.minimum(corpus.position_W[windows], MEMORY_WINDOWS - 1)
    return curve_inputs(
        user_features_at(corpus, recipe, windows, at_ms),
        bought,
        streams.user_W[windows],
        before_W[first],
        before_W[windows + 1],
        at_ms,
    )
