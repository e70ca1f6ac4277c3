"""The event lists of users and of shared entities that features are computed from.

liveprofile.wire.entity_lists describes and parses the lists.

Array suffixes: n events, T tokens of all lists, P selected rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from liveprofile.wire.entity_lists import TokenLists, is_event, parse_token_lists
from liveprofile.wire.scored_events import ENTITY_NAMES, EventBatch
from liveprofile.wire.tokens import TYPE_INDEX, TYPE_LETTERS


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
    entity_texts = [text for entity in ENTITY_NAMES for text in getattr(batch, f"of_{entity}")]
    return EventLists(
        batch.event_ms,
        batch.amount,
        np.array([ord(TYPE_LETTERS[TYPE_INDEX[name]]) for name in batch.event_type], np.uint8),
        parse_token_lists(batch.of_user, ENTITY_NAMES),
        parse_token_lists(entity_texts, ("user",)),
    )
