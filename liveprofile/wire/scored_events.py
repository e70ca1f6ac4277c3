"""A scored event with the history of its user and entities: what `score_event` receives.

Flink SQL joins the parts of an event with WINDOW: its fields, the list of its user, and the list of
each of ENTITIES, empty if it has none (`parts_sql`; `read_rows` parses them). The lists themselves
are described in `liveprofile.wire.entity_lists`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from liveprofile.wire.tokens import FIELD, WINDOW, join_sql

# What users share: the columns of their ids.
ENTITIES = ("device_id", "place", "shop_id", "coupon_id", "address_id")
ENTITY_NAMES = tuple(name.removesuffix("_id") for name in ENTITIES)
CELLS_PER_DEGREE = 100  # a place is a grid cell about a kilometre wide
HEAD_FIELDS = (
    "event_id", "event_type", "event_ms", "amount", "item_id", "category_id", *ENTITIES,
    "record_offset", "arrived_ms",
)  # fmt: skip


class EventBatch(NamedTuple):
    """n scored events, each with the lists that it arrived with; its own token is their last."""

    user_id: list[str]
    event_id: list[str]
    event_type: list[str]
    event_ms: np.ndarray  # (n,) int64
    amount: np.ndarray  # (n,) float64
    entities: tuple[list[str], ...]  # n ids of each of ENTITIES; "" if missing
    record_offset: np.ndarray  # (n,) int64
    arrived_ms: np.ndarray  # (n,) int64, the record's timestamp; 0: unknown
    of_user: list[str]
    of_entities: tuple[list[str], ...]  # n lists of each of ENTITIES; "" if the event has none

    def take(self, rows: Sequence[int]) -> "EventBatch":
        """Returns a batch of these rows."""

        def texts(column: list[str]) -> list[str]:
            return [column[row] for row in rows]

        return EventBatch(
            texts(self.user_id),
            texts(self.event_id),
            texts(self.event_type),
            self.event_ms[rows],
            self.amount[rows],
            tuple(map(texts, self.entities)),
            self.record_offset[rows],
            self.arrived_ms[rows],
            texts(self.of_user),
            tuple(map(texts, self.of_entities)),
        )


def head_sql() -> str:
    """SQL: the fields of the event, from the columns HEAD_FIELDS."""
    return join_sql(*HEAD_FIELDS)


def parts_sql() -> str:
    """SQL: the parts, from the columns head and of_user, and of_<name> for each of ENTITIES."""
    lists = ", ".join(f"COALESCE(of_{name}, '')" for name in ENTITIES)
    return f"CONCAT_WS('{WINDOW}', head, of_user, {lists})"


def read_rows(user_id: Sequence[str], parts: Sequence[str]) -> EventBatch:
    """Parses n rows of `scoring_input`. Raises ValueError for a text in another format."""
    heads, *lists = zip(*(text.split(WINDOW) for text in parts), strict=True)
    fields = zip(*(head.split(FIELD) for head in heads), strict=True)
    columns = dict(zip(HEAD_FIELDS, map(list, fields), strict=True))
    of_user, *of_entities = map(list, lists)
    if len(of_entities) != len(ENTITIES):
        raise ValueError(f"{len(of_entities)} lists of entities, not {len(ENTITIES)}")
    return EventBatch(
        list(user_id),
        columns["event_id"],
        columns["event_type"],
        np.array(columns["event_ms"], np.int64),
        np.array(columns["amount"], np.float64),
        tuple(columns[name] for name in ENTITIES),
        np.array(columns["record_offset"], np.int64),
        np.array(columns["arrived_ms"], np.int64),
        of_user,
        tuple(of_entities),
    )
