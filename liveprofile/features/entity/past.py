"""S lists as of S moments: their events in order of time, and sums and counts over spans of time.

Each sum is over one list alone, in the list's order: a row's features don't depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from liveprofile.features.entity.lists import MISSING, TokenLists, is_event
from liveprofile.units import DAY_MS, HOUR_MS, SECOND_MS

SPANS_MS = {
    "1m": 60_000, "10m": 600_000, "1h": HOUR_MS,
    "1d": DAY_MS, "3d": 3 * DAY_MS, "7d": 7 * DAY_MS, "14d": 14 * DAY_MS, "28d": 28 * DAY_MS,
    "30d": 30 * DAY_MS,
}  # fmt: skip
_LONGEST_FIRST = dict(reversed(SPANS_MS.items()))
_ALL_MS = 1 << 41  # more than any two events are apart: 69 years
_PLACE_BITS = 31
# Amounts are added up as whole numbers of this many parts of a unit of money: whole numbers have no
# rounding, so that a running sum over all lists serves each of them.
_PARTS = 10_000


class Past:
    """The events of each list not after its moment; of copies the first. The last is the own."""

    def __init__(self, lists: TokenLists, now_ms_S: np.ndarray):
        self.lists, self.now_ms_S = lists, now_ms_S
        list_T = np.repeat(np.arange(len(now_ms_S)), np.diff(lists.starts))
        age_T = now_ms_S[list_T] - lists.time_ms
        index_T = np.flatnonzero(is_event(lists.letter) & (age_T >= 0))
        index_T = in_order_of_time(index_T, list_T, age_T)
        index_T = _without_copies(index_T, lists, list_T)
        self.list_T, self.age_T = list_T[index_T], age_T[index_T]
        self.event_T = lists.event[index_T]
        self.amount_T = lists.amount[index_T]
        self.letter_T = lists.letter[index_T]
        self.ids = tuple(ids[index_T] for ids in lists.ids)
        self._at_T = self.list_T * _ALL_MS - self.age_T
        self._indices: dict[int, np.ndarray] = {}
        self.start_S = self.index_before(_ALL_MS)
        self.end_S = self.index_before(0)

    def index_before(self, ms: int) -> np.ndarray:
        """(S,) the index behind each list's last event that is `ms` old or older."""
        if ms not in self._indices:  # most are asked for by several features
            wanted_S = np.arange(len(self.now_ms_S)) * _ALL_MS - ms
            self._indices[ms] = np.searchsorted(self._at_T, wanted_S, side="right")
        return self._indices[ms]

    def bounds(self, *ms: int) -> np.ndarray:
        """(S, B) the same for each of `ms`, the largest first."""
        return np.array([self.index_before(one) for one in ms]).T

    def totals(self, values: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
        """Of each of the values, (T,), its sums (S,) over each of SPANS_MS up to now."""
        total_CSW = totals(list(values.values()), self.bounds(*_LONGEST_FIRST.values(), 0))
        return {
            name: dict(zip(_LONGEST_FIRST, np.ascontiguousarray(total_SW.T), strict=True))
            for name, total_SW in zip(values, total_CSW, strict=True)
        }

    def own(self, value_T: np.ndarray) -> np.ndarray:
        """(S,) the value of each list's own event; 0 where the list is empty."""
        padded_T = np.append(value_T, 0)
        return np.where(self.end_S > self.start_S, padded_T[self.end_S - 1], 0)

    def last(self, mask_T: np.ndarray) -> np.ndarray:
        """(S,) the index of each list's last earlier event in the mask; -1 if there is none."""
        last_T = np.maximum.accumulate(np.where(mask_T, np.arange(len(mask_T)), -1))
        last_S = np.append(last_T, -1)[np.maximum(self.end_S - 2, 0)]
        return np.where((self.end_S - 2 >= self.start_S) & (last_S >= self.start_S), last_S, -1)

    def seconds_since(self, mask_T: np.ndarray) -> np.ndarray:
        """(S,) since the last earlier event in the mask; NaN if there is none."""
        last_S = self.last(mask_T)
        return np.where(last_S >= 0, np.append(self.age_T, 0)[last_S] / SECOND_MS, np.nan)

    def firsts_and_lasts(self, key_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each (T,) bool: the first, the last event of its key in its list; missing keys never."""
        index = np.flatnonzero(key_T != MISSING)
        order, again = _grouped(key_T[index], self.list_T[index])
        order = index[order]
        first_T, last_T = np.zeros((2, len(key_T)), bool)
        first_T[order], last_T[order] = True, True
        first_T[order[1:][again]] = False
        last_T[order[:-1][again]] = False
        return first_T, last_T

    def usual(self, mask_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(T,) how many earlier events of the list are in the mask, (T,) and their mean amount."""
        parts_T = np.rint(np.where(mask_T, self.amount_T, 0.0) * _PARTS).astype(np.int64)
        count_T = self._running(mask_T.astype(np.int64))
        mean_T = self._running(parts_T) / _PARTS / np.maximum(count_T, 1)
        return count_T, mean_T

    def _running(self, value_T: np.ndarray) -> np.ndarray:
        """(T,) int64: the sum of the earlier values of the same list."""
        before = np.concatenate([[0], np.cumsum(value_T)])
        return before[:-1] - before[self.start_S[self.list_T]]


def in_order_of_time(index_T: np.ndarray, list_T: np.ndarray, age_T: np.ndarray) -> np.ndarray:
    """The indices by list, the oldest first; of equal ages in order of arrival."""
    at_T = list_T[index_T] * _ALL_MS - age_T[index_T]
    if (at_T[1:] >= at_T[:-1]).all():  # as nearly all lists arrive
        return index_T
    return index_T[np.argsort(at_T, kind="stable")]


def _grouped(key_T: np.ndarray, list_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An order in which equal keys of a list follow each other, their own order kept; (T - 1,)
    bool: the second of two neighbours has the list and key of the first.

    Key and index are packed into one number: to sort numbers takes a third of sorting by two keys.
    """
    packed_T = (key_T.astype(np.int64) << _PLACE_BITS) | np.arange(len(key_T))
    packed_T.sort()
    order = packed_T & ((1 << _PLACE_BITS) - 1)
    key_T, list_T = key_T[order], list_T[order]
    return order, (key_T[1:] == key_T[:-1]) & (list_T[1:] == list_T[:-1])


def _without_copies(index_T: np.ndarray, lists: TokenLists, list_T: np.ndarray) -> np.ndarray:
    """Of the indices, in order of time, those that are no copy of an earlier one."""
    time_T, key_T = lists.time_ms[index_T], list_T[index_T]
    tied = np.flatnonzero((time_T[1:] == time_T[:-1]) & (key_T[1:] == key_T[:-1]))
    if not len(tied):  # copies have one time, so that most lists need no search
        return index_T
    tied = np.union1d(tied, tied + 1)
    order, again = _grouped(lists.event[index_T[tied]], key_T[tied])
    again &= time_T[tied[order[1:]]] == time_T[tied[order[:-1]]]
    return np.delete(index_T, tied[order[1:][again]])


def between(values: Sequence[np.ndarray], bounds_SB: np.ndarray) -> np.ndarray:
    """(C, S, B - 1) sums of each of C values, (T,), between neighbouring bounds."""
    padded_CT = np.empty((len(values), len(values[0]) + 1))
    for row_T, value_T in zip(padded_CT, values, strict=True):
        row_T[:-1], row_T[-1] = value_T, 0.0
    sums_CSB = np.add.reduceat(padded_CT, bounds_SB.ravel(), axis=1)
    sums_CSB = sums_CSB.reshape(len(values), *bounds_SB.shape)
    # Between two equal bounds reduceat finds the value there, not 0.
    return np.where(bounds_SB[:, 1:] > bounds_SB[:, :-1], sums_CSB[:, :, :-1], 0.0)


def totals(values: Sequence[np.ndarray], bounds_SB: np.ndarray) -> np.ndarray:
    """(C, S, B - 1) sums of each of C values, (T,), from each bound to the last one."""
    return between(values, bounds_SB)[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]
