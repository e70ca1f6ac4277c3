"""The event lists of users and of shared entities, and the past events of each as of its own time.

liveprofile.wire.entity_lists describes and parses the lists. Every sum covers one list alone, in
the list's order, so a row's features do not depend on its batch.

Array suffixes: n events, P selected rows, S lists, U tokens and T past events of all lists, L
labels, K kinds of keys, B bounds, C summed columns, W = B - 1 spans.
"""

from typing import NamedTuple, Self

import numpy as np

from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS
from liveprofile.wire.entity_lists import (
    FRAUD,
    MISSING,
    TokenLists,
    is_event,
    parse_token_lists,
)
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
_MAX_AGE_MS = 1 << 41  # 69 years, more than the time between any two events
_INDEX_BITS, _HASH_BITS = 31, 32
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

    def without_event(self, row_P: np.ndarray, event_P: np.ndarray) -> Self:
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
    """Parses the lists of a batch. Raises InvalidListsError for all if one is invalid."""
    entity_texts = [text for texts in batch.of_entities for text in texts]
    return EventLists(
        batch.event_ms,
        batch.amount,
        np.array([type_letter(name) for name in batch.event_type], np.uint8),
        parse_token_lists(batch.of_user, ENTITY_NAMES),
        parse_token_lists(entity_texts, ("user",)),
    )


class PastEvents:
    """The deduplicated events of each list up to its time, in order of time.

    S = 6n lists: those of the users, then all devices, all places, ... T_user: the events in lists
    of users, which come first. The last event of a list is the scored event itself.
    """

    def __init__(self, rows: EventLists):
        lists = (rows.user_lists, rows.entity_lists)
        size_S = np.concatenate([each.starts[1:] - each.starts[:-1] for each in lists])
        letter_T = np.concatenate([each.letter for each in lists])
        time_ms_T = np.concatenate([each.time_ms for each in lists])
        event_T = np.concatenate([each.event for each in lists])
        amount_T = np.concatenate([each.amount for each in lists])
        list_T = np.repeat(np.arange(len(size_S)), size_S)
        age_T = np.repeat(of_owners(rows.event_ms), size_S) - time_ms_T
        past_T, is_event_T = age_T >= 0, is_event(letter_T)
        sort_key_T = list_T * _MAX_AGE_MS - age_T
        index_T = _in_order_of_time(np.flatnonzero(is_event_T & past_T), sort_key_T)
        index_T = _deduplicated(index_T, time_ms_T, event_T, list_T)
        self.list_T, self.age_T = list_T[index_T], age_T[index_T]
        self.amount_T, self.letter_T = amount_T[index_T], letter_T[index_T]
        self._sort_key_T = sort_key_T[index_T]
        events_S = np.bincount(self.list_T, minlength=len(size_S))
        self.end_S = np.cumsum(events_S)
        self.start_S = self.end_S - events_S
        of_users = int(self.start_S[len(rows.event_ms)]) if len(size_S) else 0
        # (5, T) int32: the entities of a user's events, the user of an entity's events; else 0.
        self.key_KT = np.full((len(ENTITY_NAMES), len(index_T)), MISSING, np.int32)
        self.key_KT[:, :of_users] = rows.user_lists.ids[:, index_T[:of_users]]
        in_entity_lists = index_T[of_users:] - len(rows.user_lists.letter)
        self.key_KT[0, of_users:] = rows.entity_lists.ids[0, in_entity_lists]
        # Whether an event is a known fraud; list and age of each known fraud's label.
        self.fraud_T = np.zeros(len(index_T), bool)
        index_L = _in_order_of_time(np.flatnonzero(~is_event_T & past_T), sort_key_T)[::-1]
        key_U = (list_T << _HASH_BITS) + event_T
        # np.unique returns the first of equal keys: the latest label of an event, which counts.
        key_L, first_L = np.unique(key_U[index_L], return_index=True)
        is_fraud_L = letter_T[index_L[first_L]] == ord(FRAUD)
        index_L, key_L = index_L[first_L][is_fraud_L], key_L[is_fraud_L]
        self.label_list_L, self.label_age_L = list_T[index_L], age_T[index_L]
        if len(key_L):
            key_T = key_U[index_T]
            at_T = np.minimum(np.searchsorted(key_L, key_T), len(key_L) - 1)
            self.fraud_T = key_L[at_T] == key_T

    def index_before(self, *ages_ms: int) -> np.ndarray:
        """(B, S) the index after each list's last event that is at least as old as each age."""
        key_BS = np.arange(len(self.end_S)) * _MAX_AGE_MS - np.array(ages_ms)[:, None]
        return np.searchsorted(self._sort_key_T, key_BS, side="right")

    def own(self, value_T: np.ndarray) -> np.ndarray:
        """(..., S) the value at each list's scored event; 0 for an empty list. (..., T)."""
        if not value_T.shape[-1]:
            return np.zeros((*value_T.shape[:-1], len(self.end_S)), value_T.dtype)
        return np.where(self.end_S > self.start_S, value_T[..., self.end_S - 1], 0)

    def first_and_last_by_key(self) -> tuple[np.ndarray, np.ndarray]:
        """Two (5, T) bool: whether an event is the first, the last with its key in its list.

        Both are false for missing keys.
        """
        index = np.flatnonzero(self.key_KT)
        column = len(self.end_S) * np.arange(len(self.key_KT))[:, None]
        order, repeated = _grouped(
            self.key_KT.ravel()[index], (self.list_T + column).ravel()[index]
        )
        order = index[order]
        first_KT, last_KT = np.zeros((2, *self.key_KT.shape), bool)
        first_KT.ravel()[order], last_KT.ravel()[order] = True, True
        first_KT.ravel()[order[1:][repeated]] = False
        last_KT.ravel()[order[:-1][repeated]] = False
        return first_KT, last_KT

    def running_mean_amount(self, mask_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (T,) the number of earlier events in the mask and (T,) their mean amount."""
        parts_T = np.rint(np.where(mask_T, self.amount_T, 0.0) * _PARTS_PER_UNIT).astype(np.int64)
        before_CT = counts_before(np.array([mask_T, parts_T]), np.int64)
        before_list_CT = before_CT.take(self.start_S, axis=1).take(self.list_T, axis=1)
        count_T, parts_T = before_CT[:, :-1] - before_list_CT
        return count_T, parts_T / _PARTS_PER_UNIT / np.maximum(count_T, 1)


def of_owners(value_n: np.ndarray) -> np.ndarray:
    """(S,) what the event of each list has."""
    return np.tile(value_n, 1 + len(ENTITY_NAMES))


def counts_before(value_CT: np.ndarray, dtype: type = np.int32) -> np.ndarray:
    """(C, T + 1) sums of the values before each place. Integers, so sums between two places are
    their exact difference."""
    before_CT = np.zeros((len(value_CT), value_CT.shape[1] + 1), dtype)
    np.cumsum(value_CT, axis=1, out=before_CT[:, 1:])
    return before_CT


def _in_order_of_time(index_T: np.ndarray, sort_key_U: np.ndarray) -> np.ndarray:
    """Sorts the indices by list, then oldest first; equal ages keep the order of arrival."""
    sort_key_T = sort_key_U[index_T]
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


def _deduplicated(
    index_T: np.ndarray, time_ms_T: np.ndarray, event_T: np.ndarray, list_T: np.ndarray
) -> np.ndarray:
    """Removes the indices of duplicates of an earlier event. index_T: in order of time."""
    time_T, key_T = time_ms_T[index_T], list_T[index_T]
    tied = np.flatnonzero((time_T[1:] == time_T[:-1]) & (key_T[1:] == key_T[:-1]))
    if not len(tied):  # duplicates have the same time, so most lists need no search
        return index_T
    tied = np.union1d(tied, tied + 1)
    order, repeated = _grouped(event_T[index_T[tied]], key_T[tied])
    repeated &= time_T[tied[order[1:]]] == time_T[tied[order[:-1]]]
    return np.delete(index_T, tied[order[1:][repeated]])


def sums_to_last(value_CT: np.ndarray, bounds_SB: np.ndarray) -> np.ndarray:
    """(C, S, W) sums of C arrays (T,) from each bound to the last one, the shortest first."""
    padded_CT = np.zeros((len(value_CT), value_CT.shape[1] + 1))
    padded_CT[:, :-1] = value_CT
    sums_CSB = np.add.reduceat(padded_CT, bounds_SB.ravel(), axis=1)
    sums_CSB = sums_CSB.reshape(len(value_CT), *bounds_SB.shape)
    # For two equal bounds reduceat returns the value there, not 0.
    sums_CSW = np.where(bounds_SB[:, 1:] > bounds_SB[:, :-1], sums_CSB[:, :, :-1], 0.0)
    return sums_CSW[:, :, ::-1].cumsum(axis=2)
