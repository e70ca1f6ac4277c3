"""A generated shop (liveprofile.simulator) as events with lists and labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from liveprofile.features.entity import SCORED_TYPES
from liveprofile.simulator import Config, Shop
from liveprofile.wire.scored_events import CELLS_PER_DEGREE
from liveprofile.wire.tokens import TYPE_INDEX, TYPE_LETTERS
from models.fraud.datasets.entity_history import Events, History, Labels

_ENTITY_COLUMNS = {
    "device": "device_id", "shop": "shop_id", "coupon": "coupon_id", "address": "address_id"
}  # fmt: skip


class Generated(NamedTuple):
    """N scored events of a shop, in order of time."""

    history: History
    time_ms_N: np.ndarray
    user_N: np.ndarray
    type_N: np.ndarray  # place in EVENT_TYPES
    fraud_N: np.ndarray  # bool
    case_N: np.ndarray  # the planted case, -1: none
    kind_N: np.ndarray  # its name, "" if none


def generated(config: Config) -> Generated:
    """A shop's scored events with their lists; each label enters when it becomes known."""
    days = [(day.events, day.labels) for day in Shop(config)]
    events = pa.concat_tables([events for events, _ in days])
    labels = pa.concat_tables([labels for _, labels in days])
    scored = pc.is_in(events["event_type"], pa.array(SCORED_TYPES))
    events = events.filter(scored)
    row_L = pc.index_in(labels["event_id"], events["event_id"].combine_chunks()).fill_null(-1)
    labels = labels.append_column("row", row_L).filter(pc.greater_equal(row_L, 0))
    row_L, count = labels["row"].to_numpy(), len(events)
    fraud_L = pc.equal(labels["label"], "fraud").to_numpy()
    fraud_N, case_N, kind_N = np.zeros(count, bool), np.full(count, -1), np.full(count, "", object)
    fraud_N[row_L], case_N[row_L], kind_N[row_L] = (
        fraud_L, labels["case"].to_numpy(), labels["kind"].to_numpy()
    )  # fmt: skip
    type_N = pc.index_in(events["event_type"], pa.array(list(TYPE_INDEX))).to_numpy()
    time_ms_N, user_N = events["event_time"].to_numpy(), _codes(events["user_id"])
    entities = {name: _codes(events[column]) for name, column in _ENTITY_COLUMNS.items()}
    entities["place"] = _cells(events["lat"].to_numpy(), events["lon"].to_numpy())
    history = History(
        Events(
            time_ms_N,
            np.frombuffer(TYPE_LETTERS.encode(), np.uint8)[type_N],
            _amounts(events),
            np.arange(1, count + 1, dtype=np.int32),
            user_N,
            entities,
        ),
        Labels(row_L, fraud_L, labels["known_at"].to_numpy()),
    )
    return Generated(history, time_ms_N, user_N, type_N, fraud_N, case_N, kind_N)


def partly_hidden(shop: Generated, seed: int) -> Generated:
    """The shop as one that is told less: each user's events lack each kind of entity, device, place
    and so on, with a chance of a half. So any combination is missing somewhere."""
    events = shop.history.events
    rng = np.random.default_rng(seed)
    entities = {
        name: np.where(rng.random(shop.user_N.max() + 1)[shop.user_N] < 0.5, 0, codes_N)
        for name, codes_N in events.entities.items()
    }
    history = History(events._replace(entities=entities), shop.history.labels)
    return shop._replace(history=history)


def _amounts(events: pa.Table) -> np.ndarray:
    """As the job has them (jobs.sql.profile_views.amount)."""
    quantity = pc.fill_null(events["quantity"], 1)
    worth = pc.multiply(events["price"], quantity.cast(pa.float64()))
    return pc.coalesce(events["amount"], worth, 0.0).to_numpy()


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers from 1; 0 for null."""
    codes = pc.dictionary_encode(column.combine_chunks()).indices
    return (codes.fill_null(-1).to_numpy() + 1).astype(np.int32)


def _cells(lat_N: np.ndarray, lon_N: np.ndarray) -> np.ndarray:
    """Grid cells as numbers from 1; 0 where there is no place."""
    known = ~np.isnan(lat_N)
    cells = np.floor(np.column_stack([lat_N, lon_N])[known] * CELLS_PER_DEGREE)
    codes_N = np.zeros(len(lat_N), np.int32)
    codes_N[known] = np.unique(cells, axis=0, return_inverse=True)[1].ravel() + 1
    return codes_N
