"""A scored event with the history of its user and entities: what `score_event` receives.

Flink SQL joins the parts of an event with WINDOW: its fields, the list of its user, and the list of
each of ENTITIES, empty if it has none (`parts_sql`; `read_rows` parses them). The lists themselves
are described in `liveprofile.wire.entity_lists`.
"""

from __future__ import annotations

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
    device_id: list[str]  # this and the following: "" if missing
    place: list[str]  # grid cell
    shop_id: list[str]
    coupon_id: list[str]
    address_id: list[str]
    item_id: list[str]
    category_id: list[str]
    record_offset: np.ndarray  # (n,) int64
    arrived_ms: np.ndarray  # (n,) int64, the record's timestamp; 0: unknown
    of_user: list[str]
    of_device: list[str]  # this and the following: "" where the event has no such entity
    of_place: list[str]
    of_shop: list[str]
    of_coupon: list[str]
    of_address: list[str]


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
    return EventBatch(
        user_id=list(user_id),
        event_id=columns["event_id"],
        event_type=columns["event_type"],
        event_ms=np.array(columns["event_ms"], np.int64),
        amount=np.array(columns["amount"], np.float64),
        **{name: columns[name] for name in (*ENTITIES, "item_id", "category_id")},
        record_offset=np.array(columns["record_offset"], np.int64),
        arrived_ms=np.array(columns["arrived_ms"], np.int64),
        of_user=of_user,
        **{f"of_{name}": texts for name, texts in zip(ENTITY_NAMES, of_entities, strict=True)},
    )
