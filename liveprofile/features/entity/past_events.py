"""The event lists of users and of shared entities, and the past events of each as of its own time.

liveprofile.wire.entity_lists describes and parses the lists. Every sum covers one list alone, in
the list's order, so a row's features do not depend on its batch.

Array suffixes: n events, P selected rows, S lists, T events of all lists, B bounds, C summed
columns, W = B - 1 spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from liveprofile.wire.entity_lists import MISSING, TokenLists, is_event, parse_token_lists
from liveprofile.wire.scored_events import ENTITY_NAMES, EventBatch
from liveprofile.wire.tokens import TYPE_INDEX, TYPE_LETTERS

# The ladder of spans: every feature takes its spans from it.
SPANS_MS = {
    "1m": MINUTE_MS,
    "10m": 10 * MINUTE_MS,
    "1h": HOUR_MS,
    "6h": 6 * HOUR_MS,
    "1d": DAY_MS,
    "3d": 3 * DAY_MS,
    "7d": 7 * DAY_MS,
    "30d": 30 * DAY_MS,
    "90d": 90 * DAY_MS,
}
_LONGEST_FIRST = dict(reversed(SPANS_MS.items()))
_MAX_AGE_MS = 1 << 41  # 69 years, more than the time between any two events
_INDEX_BITS = 31
# Amounts are summed as integers of 1 / _PARTS_PER_UNIT of the currency. Integer sums have no
# rounding, so one running sum over all lists serves every list.
_PARTS_PER_UNIT = 10_000


def type_letter(event_type: str) -> int:
    return ord(TYPE_LETTERS[TYPE_INDEX[event_type]])


class EventLists(NamedTuple):
    """n events with the lists that their features are computed from."""

    event_ms: np.ndarray  # (n,) int64
    amount: np.ndarray  # (n,) float64
    letter: np.ndarray  # (n,) uint8
    user_lists: TokenLists  # n lists
    entity_lists: TokenLists  # 5n lists in the order of ENTITY_NAMES: all devices, all places, ...

    def without_event(self, row_P: np.ndarray, event_P: np.ndarray) -> EventLists:
        """Copies the rows row_P, each as if the event event_P[p] had not happened."""
        entity_rows = np.arange(len(ENTITY_NAMES))[:, None] * len(self.event_ms) + row_P
        return EventLists(
            self.event_ms[row_P],
            self.amount[row_P],
            self.letter[row_P],
            self.user_lists.without_event(row_P, event_P),
            self.entity_lists.without_event(
                entity_rows.ravel(), np.tile(event_P, len(ENTITY_NAMES))
            ),
        )

    def duplicates(self) -> np.ndarray:
        """(n,) bool: an earlier token of the user's list is the same event."""
        lists = self.user_lists
        list_T = np.repeat(np.arange(len(self.event_ms)), np.diff(lists.starts))
        own_n = np.maximum(lists.starts[1:] - 1, 0)  # unused for empty lists
        same_T = is_event(lists.letter) & (lists.time_ms == lists.time_ms[own_n[list_T]])
        same_T &= lists.event == lists.event[own_n[list_T]]
        return np.bincount(list_T[same_T], minlength=len(self.event_ms)) > 1


def parse_lists(batch: EventBatch) -> EventLists:
    """Parses the lists of a batch. Raises InvalidLists for the whole batch if one is invalid."""
    entity_texts = [text for texts in batch.of_entities for text in texts]
    return EventLists(
        batch.event_ms,
        batch.amount,
        np.array([type_letter(name) for name in batch.event_type], np.uint8),
        parse_token_lists(batch.of_user, ENTITY_NAMES),
        parse_token_lists(entity_texts, ("user",)),
    )


class PastEvents:
    """The deduplicated events of each list up to its time `now_ms_S`, in order of time.

    The last event of a list is the scored event itself.
    """

    def __init__(self, lists: TokenLists, now_ms_S: np.ndarray):
        self.lists, self.now_ms_S = lists, now_ms_S
        list_T = np.repeat(np.arange(len(now_ms_S)), np.diff(lists.starts))
        age_T = now_ms_S[list_T] - lists.time_ms
        index_T = np.flatnonzero(is_event(lists.letter) & (age_T >= 0))
        index_T = in_order_of_time(index_T, list_T, age_T)
        index_T = _deduplicated(index_T, lists, list_T)
        self.list_T, self.age_T = list_T[index_T], age_T[index_T]
        self.event_T = lists.event[index_T]
        self.amount_T = lists.amount[index_T]
        self.letter_T = lists.letter[index_T]
        self.ids = tuple(ids[index_T] for ids in lists.ids)
        self._sort_key_T = self.list_T * _MAX_AGE_MS - self.age_T
        self._indices: dict[int, np.ndarray] = {}
        self.start_S = self.index_before(_MAX_AGE_MS)
        self.end_S = self.index_before(0)

    def index_before(self, age_ms: int) -> np.ndarray:
        """(S,) the index after each list's last event that is at least `age_ms` old."""
        if age_ms not in self._indices:  # several features need the same index
            key_S = np.arange(len(self.now_ms_S)) * _MAX_AGE_MS - age_ms
            self._indices[age_ms] = np.searchsorted(self._sort_key_T, key_S, side="right")
        return self._indices[age_ms]

    def bounds(self, *ages_ms: int) -> np.ndarray:
        """(S, B) `index_before` for each of the ages, largest first."""
        return np.array([self.index_before(age_ms) for age_ms in ages_ms]).T

    def sums_by_span(self, values: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
        """Sums each (T,) array over each of SPANS_MS up to now: {name: {span: (S,)}}."""
        total_CSW = sums_to_last(list(values.values()), self.bounds(*_LONGEST_FIRST.values(), 0))
        return {
            name: dict(zip(_LONGEST_FIRST, np.ascontiguousarray(total_SW.T), strict=True))
            for name, total_SW in zip(values, total_CSW, strict=True)
        }

    def own(self, value_T: np.ndarray) -> np.ndarray:
        """(S,) the value at each list's scored event; 0 for an empty list."""
        padded_T = np.append(value_T, 0)
        return np.where(self.end_S > self.start_S, padded_T[self.end_S - 1], 0)

    def last_index(self, mask_T: np.ndarray) -> np.ndarray:
        """(S,) the index of each list's last earlier event in the mask; -1 if there is none."""
        last_T = np.maximum.accumulate(np.where(mask_T, np.arange(len(mask_T)), -1))
        last_S = np.append(last_T, -1)[np.maximum(self.end_S - 2, 0)]
        return np.where((self.end_S - 2 >= self.start_S) & (last_S >= self.start_S), last_S, -1)

    def index_of_earlier(self, back: int) -> np.ndarray:
        """(S,) the index of each list's event `back` events before the scored one; -1 if none."""
        index_S = self.end_S - 1 - back
        return np.where(index_S >= self.start_S, index_S, -1)

    def seconds_since(self, mask_T: np.ndarray) -> np.ndarray:
        """(S,) seconds since the last earlier event in the mask; NaN if there is none."""
        last_S = self.last_index(mask_T)
        return np.where(last_S >= 0, np.append(self.age_T, 0)[last_S] / SECOND_MS, np.nan)

    def first_and_last_by_key(self, key_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Two (T,) bool: whether an event is the first, the last with its key in its list.

        Both are false for missing keys.
        """
        index = np.flatnonzero(key_T != MISSING)
        order, repeated = _grouped(key_T[index], self.list_T[index])
        order = index[order]
        first_T, last_T = np.zeros((2, len(key_T)), bool)
        first_T[order], last_T[order] = True, True
        first_T[order[1:][repeated]] = False
        last_T[order[:-1][repeated]] = False
        return first_T, last_T

    def running_mean_amount(self, mask_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (T,) the number of earlier events in the mask and (T,) their mean amount."""
        parts_T = np.rint(np.where(mask_T, self.amount_T, 0.0) * _PARTS_PER_UNIT).astype(np.int64)
        count_T = self._running_sum(mask_T.astype(np.int64))
        mean_T = self._running_sum(parts_T) / _PARTS_PER_UNIT / np.maximum(count_T, 1)
        return count_T, mean_T

    def _running_sum(self, value_T: np.ndarray) -> np.ndarray:
        """(T,) int64: the sum of the earlier values of the same list."""
        before = np.concatenate([[0], np.cumsum(value_T)])
        return before[:-1] - before[self.start_S[self.list_T]]


def in_order_of_time(index_T: np.ndarray, list_T: np.ndarray, age_T: np.ndarray) -> np.ndarray:
    """Sorts the indices by list, then oldest first; equal ages keep the order of arrival."""
    sort_key_T = list_T[index_T] * _MAX_AGE_MS - age_T[index_T]
    if (sort_key_T[1:] >= sort_key_T[:-1]).all():  # nearly all lists arrive in order
        return index_T
    return index_T[np.argsort(sort_key_T, kind="stable")]


def _grouped(key_T: np.ndarray, list_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a stable order that groups equal keys of a list, and (T - 1,) bool: in that order,
    whether an event has the same list and key as the one before it.

    Packs key and index into one integer: sorting integers takes a third of the time of a sort by
    two keys.
    """
    packed_T = (key_T.astype(np.int64) << _INDEX_BITS) | np.arange(len(key_T))
    packed_T.sort()
    order = packed_T & ((1 << _INDEX_BITS) - 1)
    key_T, list_T = key_T[order], list_T[order]
    return order, (key_T[1:] == key_T[:-1]) & (list_T[1:] == list_T[:-1])


def _deduplicated(index_T: np.ndarray, lists: TokenLists, list_T: np.ndarray) -> np.ndarray:
    """Removes the indices of duplicates of an earlier event. index_T: in order of time."""
    time_T, key_T = lists.time_ms[index_T], list_T[index_T]
    tied = np.flatnonzero((time_T[1:] == time_T[:-1]) & (key_T[1:] == key_T[:-1]))
    if not len(tied):  # duplicates have the same time, so most lists need no search
        return index_T
    tied = np.union1d(tied, tied + 1)
    order, repeated = _grouped(lists.event[index_T[tied]], key_T[tied])
    repeated &= time_T[tied[order[1:]]] == time_T[tied[order[:-1]]]
    return np.delete(index_T, tied[order[1:][repeated]])


def sums_between(values: Sequence[np.ndarray], bounds_SB: np.ndarray) -> np.ndarray:
    """(C, S, W) sums of C arrays (T,) between neighbouring bounds."""
    padded_CT = np.empty((len(values), len(values[0]) + 1))
    for row_T, value_T in zip(padded_CT, values, strict=True):
        row_T[:-1], row_T[-1] = value_T, 0.0
    sums_CSB = np.add.reduceat(padded_CT, bounds_SB.ravel(), axis=1)
    sums_CSB = sums_CSB.reshape(len(values), *bounds_SB.shape)
    # For two equal bounds reduceat returns the value there, not 0.
    return np.where(bounds_SB[:, 1:] > bounds_SB[:, :-1], sums_CSB[:, :, :-1], 0.0)


def sums_to_last(values: Sequence[np.ndarray], bounds_SB: np.ndarray) -> np.ndarray:
    """(C, S, W) sums of C arrays (T,) from each bound to the last one."""
    return sums_between(values, bounds_SB)[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]
