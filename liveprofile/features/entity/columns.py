"""Computes the features of user lists and entity lists, one value per list and column.

Array suffixes: n events, S lists, T events of all lists, L labelled events, B bounds, W spans.
"""

from __future__ import annotations

import numpy as np

from liveprofile.features.entity.past_events import (
    SPANS_MS,
    EventLists,
    PastEvents,
    in_order_of_time,
    sums_between,
    sums_to_last,
    type_letter,
)
from liveprofile.units import DAY_MS, SECOND_MS
from liveprofile.wire.entity_lists import FRAUD, MISSING, is_event
from liveprofile.wire.scored_events import ENTITY_NAMES

SPANS = tuple(SPANS_MS)
DISTINCT_SPANS = ("1h", "6h", "1d", "3d", "7d")
MEAN_SPANS = ("1d", "3d", "7d", "30d", "90d")
TINY_SPANS = ("1h", "6h", "1d", "7d")
NEW_SPANS = ("1d", "3d", "7d")
LABEL_SPANS = ("1d", "7d", "30d", "90d")
SPREE_SPANS = ("7d", "30d", "90d")  # the first fraud within a span starts a spree
SCORED_TYPES = ("purchase", "return", "login", "coupon", "follow", "share")
ORDER_DEPTH = 8  # earlier events whose types and gaps are features
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

_HASH_BITS = 32
# Position in SCORED_TYPES by letter.
_TYPE_NUMBER = np.full(256, np.nan)
_TYPE_NUMBER[[type_letter(name) for name in SCORED_TYPES]] = np.arange(len(SCORED_TYPES))

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
        known_S = count_SW[:, w] >= MIN_EARLIER_PURCHASES
        mean_S, spread_S = mean_SW[:, w], spread_SW[:, w]
        values = {
            "usual_amount": np.where(known_S, mean_S, np.nan),
            "amount_spread": np.where(known_S, spread_S, np.nan),
            "amount_ratio": np.where(
                known_S & is_purchase_S, amount_S / np.maximum(mean_S, MIN_AMOUNT), np.nan
            ),
            "amount_z": np.where(
                known_S & is_purchase_S,
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


def order_columns(past: PastEvents) -> dict[str, np.ndarray]:
    """(S,) columns of the events before the scored one; NaN if there is no such event.

    The columns by place show an order exactly. Those by type hardly change if another event comes
    in between. The gap between the scored event and the one before it is seconds_since_event.
    """
    # The index -1 of a missing event is that of the NaN at the end.
    number_T = np.append(_TYPE_NUMBER[past.letter_T], np.nan)
    age_s_T = np.append(past.age_T / SECOND_MS, np.nan)
    columns = {}
    for back in range(1, ORDER_DEPTH + 1):
        index_S = past.index_of_earlier(back)
        columns[f"type_{back}_before"] = number_T[index_S]
        if back > 1:
            gap_s_S = age_s_T[index_S] - age_s_T[past.index_of_earlier(back - 1)]
            columns[f"gap_{back}_before"] = gap_s_S
    for event_type in SCORED_TYPES:
        last_S = past.last_index(past.letter_T == type_letter(event_type))
        columns[f"seconds_since_{event_type}"] = age_s_T[last_S]
        columns[f"events_since_{event_type}"] = np.where(
            last_S >= 0, past.end_S - 1.0 - last_S, np.nan
        )
    return columns


def fraud_columns(past: PastEvents, delay_ms: int) -> Columns:
    """(S,) columns of known frauds.

    frauds and fraud_rate cover spans up to now, where most labels may not have arrived yet. risk
    and settled cover spans that end `delay_ms` ago, whose labels have matured, as in chapter 3 of
    Le Borgne et al., "Reproducible Machine Learning for Credit Card Fraud Detection" (2022).
    """
    fraud_T, fraud_list_L, fraud_age_L = _known_frauds(past)
    longest_first = LABEL_SPANS[::-1]
    ages_ms = [SPANS_MS[span] for span in longest_first]
    now_SB = past.bounds(*ages_ms, 0)
    delayed_SB = past.bounds(*(delay_ms + age_ms for age_ms in ages_ms), delay_ms)
    frauds_SW = sums_to_last([fraud_T], now_SB)[0]
    delayed_SW = sums_to_last([fraud_T], delayed_SB)[0]
    columns: Columns = {}
    for w, span in enumerate(longest_first):
        events_S = now_SB[:, -1] - now_SB[:, w]
        matured_S = delayed_SB[:, -1] - delayed_SB[:, w]
        columns[f"frauds_{span}"] = frauds_SW[:, w]
        columns[f"fraud_rate_{span}"] = frauds_SW[:, w] / np.maximum(events_S, 1)
        # The label was given within the span, even if the list lacks the event.
        recent = fraud_list_L[fraud_age_L < SPANS_MS[span]]
        columns[f"fraud_labels_{span}"] = np.bincount(recent, minlength=len(past.now_ms_S))
        columns[f"settled_{span}"] = matured_S
        columns[f"risk_{span}"] = delayed_SW[:, w] / np.maximum(matured_S, 1)

    fraud_indices, count = np.flatnonzero(fraud_T), len(fraud_T)
    age_T = np.append(past.age_T, 0) / DAY_MS
    last_S = np.append(-1, fraud_indices)[np.searchsorted(fraud_indices, past.end_S)]
    columns["days_since_last_fraud"] = np.where(last_S >= past.start_S, age_T[last_S], np.nan)
    for span in SPREE_SPANS:
        lookback_S = past.index_before(delay_ms + SPANS_MS[span])
        first_S = np.append(fraud_indices, count)[np.searchsorted(fraud_indices, lookback_S)]
        has_first_S = first_S < past.end_S
        since_SB = np.minimum(np.array([first_S, past.index_before(delay_ms)]).T, count)
        events_S = since_SB[:, 1] - since_SB[:, 0]
        frauds_S = sums_between([fraud_T], since_SB)[0, :, 0]
        columns[f"days_since_first_fraud_{span}"] = np.where(has_first_S, age_T[first_S], np.nan)
        columns[f"risk_since_first_fraud_{span}"] = np.where(
            has_first_S, frauds_S / np.maximum(events_S, 1), 0.0
        )
    return columns


def _known_frauds(past: PastEvents) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Joins the labels of a list to its events. The latest known label of an event counts.

    Returns (T,) bool: the event is a known fraud; list and age of each known fraud's label.
    """

    def keys(list_T: np.ndarray, event_T: np.ndarray) -> np.ndarray:
        return (list_T << _HASH_BITS) + event_T

    lists = past.lists
    list_T = np.repeat(np.arange(len(past.now_ms_S)), np.diff(lists.starts))
    age_T = past.now_ms_S[list_T] - lists.time_ms
    index_L = np.flatnonzero(~is_event(lists.letter) & (age_T >= 0))
    index_L = in_order_of_time(index_L, list_T, age_T)[::-1]
    # np.unique returns the first of equal keys, which is the latest in reversed order.
    key_L, first_L = np.unique(keys(list_T[index_L], lists.event[index_L]), return_index=True)
    is_fraud_L = lists.letter[index_L[first_L]] == ord(FRAUD)
    index_L, key_L = index_L[first_L][is_fraud_L], key_L[is_fraud_L]
    fraud_T = np.zeros(len(past.list_T), bool)
    if len(key_L):
        key_T = keys(past.list_T, past.event_T)
        fraud_T = key_L[np.minimum(np.searchsorted(key_L, key_T), len(key_L) - 1)] == key_T
    return fraud_T, list_T[index_L], age_T[index_L]
