"""Simulated shops as datasets of the fraud model, with the cases behind their labels.

Shape suffixes: N scored events of a shop, L labels, M events of a dataset.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from intake.simulator import Shop, ShopConfig
from lab.simulated.entity_history import EntityHistory, EventColumns, LabelColumns
from liveprofile.features.entity import SCORED_TYPES
from liveprofile.units import DAY_MS
from liveprofile.wire.scored_events import CELLS_PER_DEGREE
from liveprofile.wire.tokens import TYPE_INDEX, TYPE_LETTERS
from models.fraud.datasets.event_dataset import (
    EventDataset,
    LabelledFeatures,
    downsample_legitimate,
)

SHOP_BITS = 32  # user and case numbers: the lower bits count within a shop, the upper are the shop


class SimulatedDataset(NamedTuple):
    """M events of one or more shops, and their cases."""

    events: EventDataset
    case_M: np.ndarray  # case of fraud or of an honest change, numbered as users; -1: none
    case_kind_M: np.ndarray  # kind of the case, "" if none


def concatenate(datasets: list[SimulatedDataset]) -> SimulatedDataset:
    """Concatenates datasets of different shops and makes their user and case numbers distinct."""
    events = [dataset.events for dataset in datasets]

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(each, name) for each in events])

    x_MF = np.concatenate([each.labelled.x_NF for each in events])
    fraud_M = np.concatenate([each.labelled.fraud_N for each in events])
    legitimate = [(~each.labelled.fraud_N).sum() for each in events]
    case_M = np.concatenate([dataset.case_M for dataset in datasets])
    shop_M = np.repeat(np.arange(len(datasets)), [len(dataset.case_M) for dataset in datasets])
    shop_offset_M = shop_M << SHOP_BITS
    return SimulatedDataset(
        EventDataset(
            LabelledFeatures(x_MF, fraud_M),
            float(np.average([each.weight for each in events], weights=legitimate)),
            column("amount_M"),
            column("type_M"),
            column("time_ms_M"),
            column("user_M") + shop_offset_M,
            sum(each.user_days for each in events),
            shop_M,
        ),
        np.where(case_M < 0, -1, case_M + shop_offset_M),
        np.concatenate([dataset.case_kind_M for dataset in datasets]),
    )


_ENTITY_COLUMNS = {
    "device": "device_id",
    "shop": "shop_id",
    "coupon": "coupon_id",
    "address": "address_id",
}


class SimulatedShop(NamedTuple):
    """N scored events of a shop, in order of time."""

    config: ShopConfig
    history: EntityHistory
    time_ms_N: np.ndarray
    user_N: np.ndarray
    type_N: np.ndarray  # index into EVENT_TYPES
    fraud_N: np.ndarray  # bool
    case_N: np.ndarray  # the simulated case, -1: none
    case_kind_N: np.ndarray  # kind of the case, "" if none


def simulate_shop(config: ShopConfig) -> SimulatedShop:
    """Simulates a shop. A label enters the lists at the time at which it becomes known."""
    days = [(day.events, day.labels) for day in Shop(config)]
    events = pa.concat_tables([events for events, _ in days])
    labels = pa.concat_tables([labels for _, labels in days])
    scored = pc.is_in(events["event_type"], pa.array(SCORED_TYPES))
    events = events.filter(scored)
    row_L = pc.index_in(labels["event_id"], events["event_id"].combine_chunks()).fill_null(-1)
    labels = labels.append_column("row", row_L).filter(pc.greater_equal(row_L, 0))
    row_L, count = labels["row"].to_numpy(), len(events)
    fraud_L = pc.equal(labels["label"], "fraud").to_numpy()
    fraud_N, case_N = np.zeros(count, bool), np.full(count, -1)
    case_kind_N = np.full(count, "", object)
    fraud_N[row_L] = fraud_L
    case_N[row_L] = labels["case"].to_numpy()
    case_kind_N[row_L] = labels["kind"].to_numpy()
    type_N = pc.index_in(events["event_type"], pa.array(list(TYPE_INDEX))).to_numpy()
    time_ms_N, user_N = events["event_time"].to_numpy(), _codes(events["user_id"])
    entities = {name: _codes(events[column]) for name, column in _ENTITY_COLUMNS.items()}
    entities["place"] = _cells(events["lat"].to_numpy(), events["lon"].to_numpy())
    history = EntityHistory(
        EventColumns(
            time_ms_N,
            np.frombuffer(TYPE_LETTERS.encode(), np.uint8)[type_N],
            _amounts(events),
            np.arange(1, count + 1, dtype=np.int32),
            user_N,
            entities,
        ),
        LabelColumns(row_L, fraud_L, labels["known_at"].to_numpy()),
    )
    return SimulatedShop(config, history, time_ms_N, user_N, type_N, fraud_N, case_N, case_kind_N)


def _amounts(events: pa.Table) -> np.ndarray:
    """Amounts as the job computes them (jobs.sql)."""
    quantity = pc.fill_null(events["quantity"], 1)
    price_times_quantity = pc.multiply(events["price"], quantity.cast(pa.float64()))
    return pc.coalesce(events["amount"], price_times_quantity, 0.0).to_numpy()


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Encodes values as numbers from 1; null is 0."""
    codes = pc.dictionary_encode(column.combine_chunks()).indices
    return (codes.fill_null(-1).to_numpy() + 1).astype(np.int32)


def _cells(lat_N: np.ndarray, lon_N: np.ndarray) -> np.ndarray:
    """Encodes grid cells as numbers from 1; an event without a place has 0."""
    known = ~np.isnan(lat_N)
    cells = np.floor(np.column_stack([lat_N, lon_N])[known] * CELLS_PER_DEGREE)
    codes_N = np.zeros(len(lat_N), np.int32)
    codes_N[known] = np.unique(cells, axis=0, return_inverse=True)[1].ravel() + 1
    return codes_N


def simulate_dataset(
    config: ShopConfig, names: list[str], delay_days: float, from_day: int, legitimate: int | None
) -> SimulatedDataset:
    """Simulates a shop and returns its events: see `dataset_of_shop`."""
    return dataset_of_shop(simulate_shop(config), names, delay_days, from_day, legitimate)


def dataset_of_shop(
    shop: SimulatedShop, names: list[str], delay_days: float, from_day: int, legitimate: int | None
) -> SimulatedDataset:
    """Returns the events from `from_day` on. Features also count the events before that day.

    legitimate: how many legitimate events to draw at random; None keeps all.
    """
    config = shop.config
    rows = np.flatnonzero(shop.time_ms_N >= config.start_ms + from_day * DAY_MS)
    weight = 1.0
    if legitimate is not None:
        chosen, weight = downsample_legitimate(shop.fraud_N[rows], legitimate)
        rows = rows[chosen]
    events = EventDataset(
        LabelledFeatures(shop.history.features(rows, names, delay_days), shop.fraud_N[rows]),
        weight,
        shop.history.events.amount[rows],
        shop.type_N[rows],
        shop.time_ms_N[rows],
        shop.user_N[rows].astype(np.int64),
        config.users * (config.days - from_day),
    )
    return SimulatedDataset(events, shop.case_N[rows], shop.case_kind_N[rows])
