"""Computes the features of user lists and entity lists, one value per list and column.

Array suffixes: n events, S lists, T events of all lists, W spans.
"""

from __future__ import annotations

import numpy as np

from liveprofile.features.entity.labels import fraud_columns
from liveprofile.features.entity.lists import EventLists
from liveprofile.features.entity.order import order_columns, type_letter
from liveprofile.features.entity.past_events import SPANS_MS, PastEvents, sums_to_last
from liveprofile.units import DAY_MS
from liveprofile.wire.entity_lists import MISSING
from liveprofile.wire.scored_events import ENTITY_NAMES

SPANS = tuple(SPANS_MS)
DISTINCT_SPANS = ("1h", "6h", "1d", "3d", "7d")
MEAN_SPANS = ("1d", "3d", "7d", "30d", "90d")
TINY_SPANS = ("1h", "6h", "1d", "7d")
NEW_SPANS = ("1d", "3d", "7d")
COUNTED_TYPES = {
    "purchases": "purchase",
    "returns": "return",
    "logins": "login",
    "coupons": "coupon",
}
PLURAL = {
    "device": "devices",
    "place": "places",
    "shop": "shops",
    "coupon": "coupon_ids",
    "address": "addresses",
}
LARGE_RATIO = 3.0  # a purchase above this many times the usual amount is large
MAX_RATIO = 20.0  # ratios are cut here; larger ones carry no more information
TINY_AMOUNT = 2.0  # money: fraudsters test stolen cards with such amounts
MIN_AMOUNT = 1.0  # money: the lower bound of usual amounts and spreads in ratios
MIN_EARLIER_PURCHASES = 2  # fewer do not define a usual amount


Columns = dict[str, np.ndarray]


def user_columns(rows: EventLists, delay_ms: int) -> Columns:
    """(n,) columns of the events' users."""
    past = PastEvents(rows.user_lists, rows.event_ms)
    bought_T = past.letter_T == type_letter("purchase")
    keys = {
        entity: past.first_and_last_by_key(ids_T)
        for entity, ids_T in zip(ENTITY_NAMES, past.ids, strict=True)
    }
    sums = past.sums_by_span(
        _summed_values(past, bought_T)
        | {
            name: past.letter_T == type_letter(event_type)
            for name, event_type in COUNTED_TYPES.items()
        }
        | {PLURAL[entity]: last_T for entity, (_, last_T) in keys.items()}
    )
    columns = _owner_columns(past, sums, SPANS)
    for name in COUNTED_TYPES:
        columns |= _columns_by_span(name, sums[name], SPANS)
    for (entity, (first_T, _)), ids_T in zip(keys.items(), past.ids, strict=True):
        columns |= _columns_by_span(PLURAL[entity], sums[PLURAL[entity]], DISTINCT_SPANS)
        has_entity_n = past.own(ids_T) != MISSING
        columns[f"new_{entity}"] = np.where(has_entity_n, past.own(first_T), np.nan)
    columns |= _amount_columns(past, bought_T, rows.amount) | fraud_columns(past, delay_ms)
    return columns | order_columns(past)


def entity_columns(rows: EventLists, delay_ms: int) -> Columns:
    """(5n,) columns: all devices, then all places, ...; NaN where the event has no such entity."""
    past = PastEvents(rows.entity_lists, np.tile(rows.event_ms, len(ENTITY_NAMES)))
    bought_T = past.letter_T == type_letter("purchase")
    first_T, last_T = past.first_and_last_by_key(past.ids[0])
    sums = past.sums_by_span(_summed_values(past, bought_T) | {"users": last_T, "new": first_T})
    columns = _owner_columns(past, sums, MEAN_SPANS)
    columns |= _columns_by_span("purchases", sums["purchases"], MEAN_SPANS)
    columns |= _columns_by_span("users", sums["users"], DISTINCT_SPANS)
    for span in NEW_SPANS:
        events_S = np.maximum(sums["events"][span], 1)
        columns[f"new_user_share_{span}"] = sums["new"][span] / events_S
    columns |= _amount_columns(past, bought_T, np.tile(rows.amount, len(ENTITY_NAMES)))
    columns |= fraud_columns(past, delay_ms)
    empty_S = np.diff(rows.entity_lists.starts) == 0
    return {name: np.where(empty_S, np.nan, values_S) for name, values_S in columns.items()}


def _summed_values(past: PastEvents, bought_T: np.ndarray) -> dict[str, np.ndarray]:
    """(T,) values that are summed over spans for users and entities.

    The ratio compares a purchase with the usual amount at its time.
    """
    count_T, usual_T = past.running_mean_amount(bought_T)
    ratio_T = np.where(
        count_T >= MIN_EARLIER_PURCHASES, past.amount_T / np.maximum(usual_T, MIN_AMOUNT), 1.0
    )
    return {
        "events": np.ones(len(bought_T)),
        "purchases": bought_T,
        "amount": bought_T * past.amount_T,
        "ratio": bought_T * np.minimum(ratio_T, MAX_RATIO),
        "large": bought_T & (ratio_T > LARGE_RATIO),
        "tiny": bought_T & (past.amount_T <= TINY_AMOUNT),
    }


def _columns_by_span(name: str, by_span: Columns, spans: tuple[str, ...]) -> Columns:
    return {f"{name}_{span}": by_span[span] for span in spans}


def _owner_columns(
    past: PastEvents, sums: dict[str, Columns], amount_spans: tuple[str, ...]
) -> Columns:
    """The columns that users and entities share."""
    columns = _columns_by_span("events", sums["events"], SPANS)
    columns |= _columns_by_span("amount", sums["amount"], amount_spans)
    columns |= _columns_by_span("large", sums["large"], MEAN_SPANS)
    columns |= _columns_by_span("tiny", sums["tiny"], TINY_SPANS)
    bought = sums["purchases"]
    for span in MEAN_SPANS:
        columns[f"mean_amount_{span}"] = _mean(sums["amount"][span], bought[span])
        columns[f"mean_ratio_{span}"] = _mean(sums["ratio"][span], bought[span])
    for span in TINY_SPANS:
        columns[f"tiny_share_{span}"] = sums["tiny"][span] / np.maximum(bought[span], 1)
    return columns | _list_coverage(past)


def _mean(sum_S: np.ndarray, count_S: np.ndarray) -> np.ndarray:
    """The mean; NaN where the count is 0."""
    return np.where(count_S > 0, sum_S / np.maximum(count_S, 1), np.nan)


def _amount_columns(past: PastEvents, bought_T: np.ndarray, amount_S: np.ndarray) -> Columns:
    """Compares a purchase's amount with the earlier purchases of the list and of its last 30 days.

    NaN for fewer than MIN_EARLIER_PURCHASES; amount_ratio and amount_z are also NaN if the scored
    event is not a purchase.
    """
    earlier_T = bought_T.copy()
    earlier_T[past.end_S[past.end_S > past.start_S] - 1] = False
    bounds_SB = np.array([past.start_S, past.index_before(30 * DAY_MS), past.end_S]).T
    count_SW, sum_SW = sums_to_last([earlier_T, earlier_T * past.amount_T], bounds_SB)
    divisor_SW = np.maximum(count_SW, 1)
    mean_SW = sum_SW / divisor_SW
    # Deviations from each list's mean keep precision: squares of large amounts in one list would
    # cancel the digits of small ones in another.
    deviations = [
        np.where(earlier_T, past.amount_T - mean_S[past.list_T], 0.0) for mean_S in mean_SW.T
    ]
    square_WSW = sums_to_last([deviation_T**2 for deviation_T in deviations], bounds_SB)
    spread_SW = np.sqrt(np.diagonal(square_WSW, axis1=0, axis2=2) / divisor_SW)
    is_purchase_S = past.own(bought_T) != 0
    columns = {"earlier_purchases": count_SW[:, 0]}
    for w, suffix in enumerate(("", "_30d")):
        knamount_S = count_SW[:, w] >= MIN_EARLIER_PURCHASES
        mean_S, spread_S = mean_SW[:, w], spread_SW[:, w]
        values = {
            "usual_amount": np.where(knamount_S, mean_S, np.nan),
            "amount_spread": np.where(knamount_S, spread_S, np.nan),
            "amount_ratio": np.where(
                knamount_S & is_purchase_S, amount_S / np.maximum(mean_S, MIN_AMOUNT), np.nan
            ),
            "amount_z": np.where(
                knamount_S & is_purchase_S,
                (amount_S - mean_S) / np.maximum(spread_S, MIN_AMOUNT),
                np.nan,
            ),
        }
        columns |= {f"{name}{suffix}": values_S for name, values_S in values.items()}
    return columns


def _list_coverage(past: PastEvents) -> Columns:
    """How many events the list has and how far back it reaches; older events are unknown."""
    count_S = past.end_S - past.start_S
    age_T = np.append(past.age_T, 0)
    first_S = np.minimum(past.start_S, len(age_T) - 1)
    return {
        "list_events": count_S.astype(np.float64),
        "list_days": np.where(count_S > 0, age_T[first_S] / DAY_MS, 0.0),
        "seconds_since_event": past.seconds_since(past.age_T >= 0),
    }
