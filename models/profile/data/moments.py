"""Moments at which profiles are read: any time, for every user seen so far.

A profile is read between a user's windows, also months after the last one. The label of a moment is
what the user does in the horizon after it; what is known is the user's last closed window.

Shape suffixes: M moments, W windows, P purchases.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from liveprofile.units import DAY_MS
from models.profile.data.examples import PURCHASE, purchases_after
from models.profile.data.prepared import Split
from models.profile.data.training_rows import Streams

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
    """The outcomes of moments whose windows ascend."""
    horizon_ms = round(horizon_days * DAY_MS)
    purchases_M, spend_M = purchases_after(streams, moments.window_M, moments.at_ms_M, horizon_ms)
    bought_N = streams.type_N == PURCHASE
    user_P = np.repeat(streams.user_W, streams.last_W - streams.first_W)[bought_N]
    time_ms_P = np.append(streams.time_ms_N[bought_N], 0)
    start_ms = int(min(time_ms_P[:-1].min(initial=0), moments.at_ms_M.min(initial=0)))
    span_ms = int(max(time_ms_P.max(), moments.at_ms_M.max(initial=0))) - start_ms + 1
    key_P = user_P * span_ms + time_ms_P[:-1] - start_ms
    key_M = streams.user_W[moments.window_M] * span_ms + moments.at_ms_M - start_ms
    wait_ms_M = time_ms_P[np.searchsorted(key_P, key_M, side="right")] - moments.at_ms_M
    days_M = np.where(purchases_M > 0, wait_ms_M / DAY_MS, float(horizon_days))
    return Outcomes(purchases_M == 0, spend_M, days_M)


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
