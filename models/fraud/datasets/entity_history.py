"""Events and labels of a file as the lists that the job would have kept: features without Flink.

A label enters the lists of its event's user and entities when it is given, between the events that
had come by then; of events alone nothing tells when they came but their order and their times, so
that the clock is the latest time so far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from liveprofile.features.entity import Rows, TokenLists
from liveprofile.features.entity.lists import ENTITIES, FRAUD, LEGITIMATE, MISSING
from liveprofile.progress import Progress
from models.fraud.model import columns_of
from models.fraud.sequence.tokens import Tokens, tokens_of

if TYPE_CHECKING:
    from models.fraud.sequence.network import EventSequence

KEEP = 128
_ROWS_AT_ONCE = 400  # their lists fit a processor's cache


class Events(NamedTuple):
    """N events in order of arrival; ids are numbers from 1, 0 where there is none."""

    time_ms: np.ndarray  # (N,) int64
    letter: np.ndarray  # (N,) uint8, the type's letter
    amount: np.ndarray  # (N,) float64
    event: np.ndarray  # (N,) int32: a copy has the number of the first
    user: np.ndarray  # (N,) int32
    entities: dict[str, np.ndarray]  # (N,) int32 each, of ENTITIES; one left out is missing


class Labels(NamedTuple):
    """L labels, in any order."""

    row: np.ndarray  # (L,) int64: the labelled event's
    fraud: np.ndarray  # (L,) bool
    time_ms: np.ndarray  # (L,) int64: when it was given


class History:
    """The lists of every event."""

    def __init__(self, events: Events, labels: Labels, keep: int = KEEP):
        self.events, self.labels, self.keep = events, labels, keep
        self._arrived(events, labels)
        user_M = events.user[self._row_M]
        entities_M = {
            name: events.entities[name][self._row_M] for name in ENTITIES if name in events.entities
        }
        nothing = np.zeros(len(self._row_M), np.int32)
        of_user = [
            np.where(self._label_M, 0, entities_M.get(name, nothing)).astype(np.int32)
            for name in ENTITIES
        ]
        self._of_user = self._lists(user_M, of_user)
        self._of_entities = {
            name: self._lists(key_M, [user_M]) for name, key_M in entities_M.items()
        }

    def rows(self, wanted_W: np.ndarray) -> Rows:
        """The wanted events, with their lists."""
        at_W = self._place_N[wanted_W]
        entities = []
        for name in ENTITIES:
            lists = self._of_entities.get(name)
            entities.append(lists.until(at_W, self.keep) if lists else _none(len(at_W)))
        return Rows(
            self.events.time_ms[wanted_W],
            self.events.amount[wanted_W],
            self.events.letter[wanted_W],
            self._of_user.until(at_W, self.keep),
            _behind_each_other(entities),
        )

    def features(
        self,
        wanted_W: np.ndarray,
        names: list[str],
        delay_days: float,
        on_progress: Progress = lambda stage, done, total: None,
        sequence: EventSequence | None = None,
    ) -> np.ndarray:
        """(W, F) float32 of the wanted events. sequence: of a model that has one, for the log-odds
        that its trees ask for."""
        found_WF = np.empty((len(wanted_W), len(names)), np.float32)
        for start in range(0, len(wanted_W), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            columns = columns_of(self.rows(wanted_W[part]), delay_days, sequence)
            for f, name in enumerate(names):
                found_WF[part, f] = columns[name]
            on_progress("features", min(part.stop, len(wanted_W)), len(wanted_W))
        return found_WF

    def tokens(self, wanted_W: np.ndarray, sources: tuple[str, ...]) -> Tokens:
        """Of the wanted events, by their lists of `sources`: what a sequence model learns from."""
        starts = range(0, len(wanted_W), _ROWS_AT_ONCE)
        parts = (self.rows(wanted_W[start : start + _ROWS_AT_ONCE]) for start in starts)
        return Tokens.joined([tokens_of(rows, sources) for rows in parts])

    def _arrived(self, events: Events, labels: Labels) -> None:
        """All M tokens, events and labels, in order of arrival."""
        clock_N = np.maximum.accumulate(events.time_ms)
        by_time = np.argsort(labels.time_ms, kind="stable")
        row_L, time_L = labels.row[by_time], labels.time_ms[by_time]
        before_L = np.searchsorted(clock_N, time_L)
        # Of equal places labels come first: what is known at a time is known to its events.
        order = np.argsort(np.concatenate([before_L, np.arange(len(clock_N))]), kind="stable")
        self._row_M = np.concatenate([row_L, np.arange(len(clock_N))])[order]
        self._label_M = order < len(row_L)
        self._place_N = np.flatnonzero(~self._label_M)
        letter_L = np.where(labels.fraud[by_time], ord(FRAUD), ord(LEGITIMATE)).astype(np.uint8)
        self._letter_M = np.concatenate([letter_L, events.letter])[order]
        self._time_M = np.concatenate([time_L, events.time_ms])[order]
        amount_M = events.amount[self._row_M]
        self._amount_M = np.where(self._label_M, 0.0, amount_M)
        self._event_M = events.event[self._row_M]

    def _lists(self, key_M: np.ndarray, ids: list[np.ndarray]) -> _Lists:
        return _Lists(
            key_M, self._letter_M, self._time_M, self._event_M, self._amount_M, tuple(ids)
        )


class _Lists:
    """The tokens of all keys of a kind, key by key in order of arrival."""

    def __init__(
        self,
        key_M: np.ndarray,
        letter_M: np.ndarray,
        time_M: np.ndarray,
        event_M: np.ndarray,
        amount_M: np.ndarray,
        ids: tuple[np.ndarray, ...],
    ):
        order = np.argsort(key_M, kind="stable")
        self.place_M = np.empty(len(order), np.int64)
        self.place_M[order] = np.arange(len(order))
        self.first_M = np.searchsorted(key_M[order], key_M)
        self.missing_M = key_M == MISSING
        one = np.array([0, len(order)])
        self._tokens = TokenLists(one, letter_M, time_M, event_M, amount_M, ids).taken(order, one)

    def until(self, at_W: np.ndarray, keep: int) -> TokenLists:
        """The last `keep` tokens of each place's key, the place itself included."""
        end_W = self.place_M[at_W] + 1
        size_W = np.minimum(end_W - self.first_M[at_W], keep)
        size_W[self.missing_M[at_W]] = 0
        return self._tokens.until(end_W, size_W)


def _none(count: int) -> TokenLists:
    starts, ids = np.zeros(count + 1, np.int64), (np.empty(0, np.int32),)
    kinds = (np.uint8, np.int64, np.int32, np.float64)
    return TokenLists(starts, *(np.empty(0, kind) for kind in kinds), ids)


def _behind_each_other(parts: list[TokenLists]) -> TokenLists:
    ends = np.cumsum([0, *(part.starts[-1] for part in parts)])
    starts = [part.starts[:-1] + end for part, end in zip(parts, ends, strict=False)]
    columns = (np.concatenate(values) for values in list(zip(*parts, strict=True))[1:-1])
    ids = (np.concatenate([part.ids[0] for part in parts]),)
    return TokenLists(np.concatenate([*starts, ends[-1:]]), *columns, ids)
