"""The rows that the event lane hands over (jobs/sql/scoring_views.py), and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from liveprofile.wire.tokens import FIELD, WINDOW

# What users share: the column of its id, and the letter of its list. As in
# liveprofile.features.entity.lists.ENTITIES.
ENTITIES = {"device_id": "d", "place": "p", "shop_id": "s", "coupon_id": "c", "address_id": "a"}
CELLS_PER_DEGREE = 100  # a cell of places is about a kilometre wide
HEAD, OF_USER = "h", "u"
HEAD_FIELDS = (
    "event_id", "event_type", "event_ms", "amount", "item_id", "category_id", *ENTITIES,
)  # fmt: skip


class EventBatch(NamedTuple):
    """n rows of the lane: each an event and the lists it came with, its own token last in each."""

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
    of_user: list[str]
    of_device: list[str]  # this and the following: "" where the event has no such entity
    of_place: list[str]
    of_shop: list[str]
    of_coupon: list[str]
    of_address: list[str]


def read_rows(user_id: Sequence[str], parts: Sequence[str]) -> EventBatch:
    """n rows of `jobs.sql.scoring_views.known`. Raises ValueError or KeyError for what is none."""
    heads, lists = [], []
    for text in parts:
        part = {one[:1]: one[1:] for one in text.split(WINDOW)}
        heads.append(part[HEAD].split(FIELD))
        lists.append([part[OF_USER], *(part.get(letter, "") for letter in ENTITIES.values())])
    columns = dict(zip(HEAD_FIELDS, map(list, zip(*heads, strict=True)), strict=True))
    of_user, *of_entities = map(list, zip(*lists, strict=True))
    return EventBatch(
        user_id=list(user_id),
        event_id=columns["event_id"],
        event_type=columns["event_type"],
        event_ms=np.array(columns["event_ms"], np.int64),
        amount=np.array(columns["amount"], np.float64),
        **{name: columns[name] for name in (*ENTITIES, "item_id", "category_id")},
        of_user=of_user,
        **{
            f"of_{name.removesuffix('_id')}": texts
            for name, texts in zip(ENTITIES, of_entities, strict=True)
        },
    )
