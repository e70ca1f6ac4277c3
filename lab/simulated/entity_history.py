"""Builds the user and entity lists that the job would keep, from arrays: features without Flink.

A label enters the lists of its event's user and entities at the time of the label. Events carry no
arrival time, so the arrival clock is the latest event time so far.

Shape suffixes: N events, L labels, M = N + L tokens in order of arrival, W requested events,
F features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from liveprofile.features.entity import COLUMN_OF, EventLists, TokenLists, features_from_lists
from liveprofile.progress import Progress
from liveprofile.wire.entity_lists import FRAUD, LEGITIMATE, MISSING
from liveprofile.wire.scored_events import ENTITY_NAMES

LIST_LENGTH = 128
_CHUNK_ROWS = 400  # their lists fit a processor's cache


class EventColumns(NamedTuple):
    """N events in order of arrival. Ids are numbers from 1; 0 is a missing id."""

    time_ms: np.ndarray  # (N,) int64
    letter: np.ndarray  # (N,) uint8, the event type's letter
    amount: np.ndarray  # (N,) float64
    event: np.ndarray  # (N,) int32: a duplicate has the number of the first
    user: np.ndarray  # (N,) int32
    entities: dict[str, np.ndarray]  # (N,) int32 by name of ENTITY_NAMES; may lack some


class LabelColumns(NamedTuple):
    """L labels, in any order."""

    row: np.ndarray  # (L,) int64: row of the labelled event
    fraud: np.ndarray  # (L,) bool
    time_ms: np.ndarray  # (L,) int64: when the label was given


class EntityHistory:
    """The user list and the entity lists of every event, each of at most `keep` tokens."""

    def __init__(self, events: EventColumns, labels: LabelColumns, keep: int = LIST_LENGTH):
        self.events, self.labels, self.keep = events, labels, keep
        self._merge_by_arrival(events, labels)
        user_M = events.user[self._row_M]
        entities_M = {
            name: events.entities[name][self._row_M]
            for name in ENTITY_NAMES
            if name in events.entities
        }
        missing_M = np.zeros(len(self._row_M), np.int32)
        of_user = [
            np.where(self._is_label_M, 0, entities_M.get(name, missing_M)).astype(np.int32)
            for name in ENTITY_NAMES
        ]
        self._of_user = self._lists(user_M, of_user)
        self._of_entities = {
            name: self._lists(key_M, [user_M]) for name, key_M in entities_M.items()
        }

    def rows(self, rows_W: np.ndarray) -> EventLists:
        """Returns these events with their lists."""
        arrival_W = self._arrival_N[rows_W]
        entities = []
        for name in ENTITY_NAMES:
            lists = self._of_entities.get(name)
            entities.append(
                lists.ending_at(arrival_W, self.keep) if lists else _empty_lists(len(arrival_W))
            )
        return EventLists(
            self.events.time_ms[rows_W],
            self.events.amount[rows_W],
            self.events.letter[rows_W],
            self._of_user.ending_at(arrival_W, self.keep),
            _concatenate(entities),
        )

    def features(
        self,
        rows_W: np.ndarray,
        names: list[str],
        delay_days: float,
        on_progress: Progress = lambda stage, done, total: None,
    ) -> np.ndarray:
        """Returns (W, F) float32 features of these events."""
        index = [COLUMN_OF[name] for name in names]
        x_WF = np.empty((len(rows_W), len(names)), np.float32)
        for start in range(0, len(rows_W), _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            x_WF[chunk] = features_from_lists(self.rows(rows_W[chunk]), delay_days)[:, index]
            on_progress("features", min(chunk.stop, len(rows_W)), len(rows_W))
        return x_WF

    def _merge_by_arrival(self, events: EventColumns, labels: LabelColumns) -> None:
        """Merges events and labels into M tokens in order of arrival."""
        clock_N = np.maximum.accumulate(events.time_ms)
        by_time = np.argsort(labels.time_ms, kind="stable")
        row_L, time_L = labels.row[by_time], labels.time_ms[by_time]
        before_L = np.searchsorted(clock_N, time_L)
        # At equal times labels come first: the events of that time already see them.
        order = np.argsort(np.concatenate([before_L, np.arange(len(clock_N))]), kind="stable")
        self._row_M = np.concatenate([row_L, np.arange(len(clock_N))])[order]
        self._is_label_M = order < len(row_L)
        self._arrival_N = np.flatnonzero(~self._is_label_M)
        letter_L = np.where(labels.fraud[by_time], ord(FRAUD), ord(LEGITIMATE)).astype(np.uint8)
        self._letter_M = np.concatenate([letter_L, events.letter])[order]
        self._time_M = np.concatenate([time_L, events.time_ms])[order]
        amount_M = events.amount[self._row_M]
        self._amount_M = np.where(self._is_label_M, 0.0, amount_M)
        self._event_M = events.event[self._row_M]

    def _lists(self, key_M: np.ndarray, ids: list[np.ndarray]) -> _ListsByKey:
        return _ListsByKey(
            key_M, self._letter_M, self._time_M, self._event_M, self._amount_M, np.array(ids)
        )


class _ListsByKey:
    """The tokens of all keys of one kind (user, device, ...), sorted by key, then arrival."""

    def __init__(
        self,
        key_M: np.ndarray,
        letter_M: np.ndarray,
        time_M: np.ndarray,
        event_M: np.ndarray,
        amount_M: np.ndarray,
        ids: np.ndarray,
    ):
        order = np.argsort(key_M, kind="stable")
        self.sorted_index_M = np.empty(len(order), np.int64)
        self.sorted_index_M[order] = np.arange(len(order))
        self.key_start_M = np.searchsorted(key_M[order], key_M)
        self.missing_M = key_M == MISSING
        one_list = np.array([0, len(order)])
        self._tokens = TokenLists(one_list, letter_M, time_M, event_M, amount_M, ids).take(
            order, one_list
        )

    def ending_at(self, arrival_W: np.ndarray, keep: int) -> TokenLists:
        """Returns the last `keep` tokens of each token's key, up to and including the token."""
        end_W = self.sorted_index_M[arrival_W] + 1
        size_W = np.minimum(end_W - self.key_start_M[arrival_W], keep)
        size_W[self.missing_M[arrival_W]] = 0
        starts = np.concatenate([[0], np.cumsum(size_W)])
        index_T = np.arange(starts[-1]) + np.repeat(end_W - starts[1:], size_W)
        return self._tokens.take(index_T, starts)


def _empty_lists(count: int) -> TokenLists:
    starts, ids = np.zeros(count + 1, np.int64), np.empty((1, 0), np.int32)
    kinds = (np.uint8, np.int64, np.int32, np.float64)
    return TokenLists(starts, *(np.empty(0, kind) for kind in kinds), ids)


def _concatenate(chunks: list[TokenLists]) -> TokenLists:
    ends = np.cumsum([0, *(chunk.starts[-1] for chunk in chunks)])
    starts = [chunk.starts[:-1] + end for chunk, end in zip(chunks, ends, strict=False)]
    columns = (np.concatenate(values) for values in list(zip(*chunks, strict=True))[1:-1])
    ids = np.concatenate([chunk.ids for chunk in chunks], axis=1)
    return TokenLists(np.concatenate([*starts, ends[-1:]]), *columns, ids)
