"""A scored event with the history of its user and entities: what `score_event` receives.

Flink SQL joins the parts of an event with WINDOW. Each part starts with a letter: HEAD for the
fields of the event, USER_LIST for the user's last events, and the letter of ENTITIES for the last
events of each entity. `head_part_sql` and `entity_part_sql` write the parts, `read_rows` parses
them. The lists themselves are described in `liveprofile.wire.entity_lists`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from liveprofile.wire.tokens import FIELD, WINDOW, join_sql

# What users share: the column of its id, and the letter of its list.
ENTITIES = {"device_id": "d", "place": "p", "shop_id": "s", "coupon_id": "c", "address_id": "a"}
ENTITY_NAMES = tuple(name.removesuffix("_id") for name in ENTITIES)
CELLS_PER_DEGREE = 100  # a place is a grid cell about a kilometre wide
HEAD, USER_LIST = "h", "u"
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


def head_part_sql(head: str, user_list: str) -> str:
    """SQL: the parts that every event has."""
    return f"CONCAT('{HEAD}', {head}, '{WINDOW}', '{USER_LIST}', {user_list})"


def entity_part_sql(entity: str, entity_list: str) -> str:
    """SQL: the part of one entity. `entity`: a column of `entity_key_sql`."""
    return f"CONCAT(LEFT({entity}, 1), {entity_list})"


def entity_key_sql(name: str) -> str:
    """SQL: the key of an entity across all kinds of entities; '' if the event has none."""
    return f"CASE WHEN {name} = '' THEN '' ELSE '{ENTITIES[name]}' || {name} END"


def part_count_sql() -> str:
    """SQL: how many rows an event is split into: one for each entity, one for all else."""
    return " + ".join(("1", *(f"CASE WHEN {name} = '' THEN 0 ELSE 1 END" for name in ENTITIES)))


def read_rows(user_id: Sequence[str], parts: Sequence[str]) -> EventBatch:
    """Parses n rows of `scoring_input`. Raises ValueError or KeyError for a text in another format.

    The order of the parts does not matter.
    """
    heads, lists = [], []
    for text in parts:
        part = {one[:1]: one[1:] for one in text.split(WINDOW)}
        heads.append(part[HEAD].split(FIELD))
        lists.append([part[USER_LIST], *(part.get(letter, "") for letter in ENTITIES.values())])
    columns = dict(zip(HEAD_FIELDS, map(list, zip(*heads, strict=True)), strict=True))
    of_user, *of_entities = map(list, zip(*lists, strict=True))
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
