"""Computes the features of user lists and entity lists.

A call of numpy costs a small batch about as much as a large one. So each step is one call for all
lists, spans and similar columns, and computes more columns than features need.

Array suffixes: n events, S lists, T events of all lists, C columns, K kinds of keys, B bounds, W
spans.
"""

import numpy as np

from liveprofile.features.entity.past_events import (
    SPANS_MS,
    EventLists,
    PastEvents,
    counts_before,
    of_owners,
    sums_to_last,
    type_letter,
)
from liveprofile.units import DAY_MS, SECOND_MS
from liveprofile.wire.entity_lists import MISSING

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

# Position in SCORED_TYPES by letter.
_TYPE_NUMBER = np.full(256, np.nan)
_TYPE_NUMBER[[type_letter(name) for name in SCORED_TYPES]] = np.arange(len(SCORED_TYPES))
_LETTERS = np.array([[type_letter(name)] for name in SCORED_TYPES], np.uint8)
_COUNTED_LETTERS = np.array([[type_letter(name)] for name in COUNTED_TYPES.values()], np.uint8)
_BACK = np.arange(1, ORDER_DEPTH + 1)[:, None]


def _by_span(*names: str, spans: tuple[str, ...] = SPANS) -> tuple[str, ...]:
    return tuple(f"{name}_{span}" for name in names for span in spans)


_COUNTED = (*COUNTED_TYPES, "large", "tiny", "frauds", "new", *PLURAL.values())
_PURCHASES, _TINY, _FRAUDS = map(_COUNTED.index, ("purchases", "tiny", "frauds"))
_NEW, _DEVICES = map(_COUNTED.index, ("new", PLURAL["device"]))
_COMPARED = ("usual_amount", "amount_spread", "amount_ratio", "amount_z")
# The columns of list_columns, in order.
LIST_COLUMNS = (
    *_by_span("events", *_COUNTED, "users", "tiny_share", "fraud_rate", "new_user_share"),
    *_by_span("amount", "ratio", "mean_amount", "mean_ratio"),
    *(f"{name}{suffix}" for name in _COMPARED for suffix in ("_30d", "")),
    "earlier_purchases",
    "list_events",
    "list_days",
    "seconds_since_event",
    *_by_span("settled", "risk", "fraud_labels", spans=LABEL_SPANS),
    *_by_span("days_since_first_fraud", "risk_since_first_fraud", spans=SPREE_SPANS),
    "days_since_last_fraud",
)
USER_COLUMNS = (
    *(f"type_{back}_before" for back in range(1, ORDER_DEPTH + 1)),
    *(f"gap_{back}_before" for back in range(2, ORDER_DEPTH + 1)),
    *(f"{unit}_since_{name}" for unit in ("seconds", "events") for name in SCORED_TYPES),
    *(f"new_{entity}" for entity in PLURAL),
)


def list_columns(rows: EventLists, delay_ms: int) -> tuple[np.ndarray, np.ndarray]:
    """(C, S) LIST_COLUMNS of the lists of PastEvents, and (C, n) USER_COLUMNS of the users' lists.

    C columns of W spans are (C, W, S) here.
    """
    past, n = PastEvents(rows), len(rows.event_ms)
    delayed_ms = (delay_ms + SPANS_MS[span] for span in LABEL_SPANS)
    index_BS = past.index_before(*SPANS_MS.values(), *delayed_ms, delay_ms)
    bound_WS, delayed_BS = index_BS[: len(SPANS)], index_BS[len(SPANS) :]
    counted_CT = past.letter_T == _COUNTED_LETTERS
    bought_T = counted_CT[0]
    first_KT, last_KT = past.first_and_last_by_key()
    # The ratio compares a purchase with the usual amount at its time.
    count_T, usual_T = past.running_mean_amount(bought_T)
    ratio_T = np.where(
        count_T >= MIN_EARLIER_PURCHASES, past.amount_T / np.maximum(usual_T, MIN_AMOUNT), 1.0
    )
    large_T, tiny_T = ratio_T > LARGE_RATIO, past.amount_T <= TINY_AMOUNT
    marks = (bought_T & large_T, bought_T & tiny_T, past.fraud_T)
    before_CT = counts_before(np.concatenate([counted_CT, marks, first_KT[:1], last_KT]))
    count_CWS = before_CT[:, None, past.end_S] - before_CT.take(bound_WS, axis=1)
    events_WS = past.end_S - bound_WS
    summed_CT = bought_T * np.array([past.amount_T, np.minimum(ratio_T, MAX_RATIO)])
    bound_SB = np.concatenate([bound_WS[::-1], [past.end_S]]).T
    sum_CWS = sums_to_last(summed_CT, bound_SB).swapaxes(1, 2)
    bought_WS = count_CWS[_PURCHASES]
    divisor_WS = np.maximum(bought_WS, 1)
    mean_CWS = np.where(bought_WS > 0, sum_CWS / divisor_WS, np.nan)
    event_divisor_WS = np.maximum(events_WS, 1)
    share_CWS = [
        count_CWS[_TINY] / divisor_WS,
        count_CWS[_FRAUDS] / event_divisor_WS,
        count_CWS[_NEW] / event_divisor_WS,
    ]
    # The keys of an entity's list are its users, and lie where a user's list has the devices.
    users_WS = count_CWS[_DEVICES]
    columns_CWS = np.concatenate([[events_WS], count_CWS, [users_WS], share_CWS, sum_CWS, mean_CWS])
    columns_CS = [
        columns_CWS.reshape(len(columns_CWS) * len(SPANS), -1),
        _amount_columns(past, bought_T, bound_WS[SPANS.index("30d")], rows.amount),
        _fraud_columns(past, before_CT[_FRAUDS], delayed_BS),
    ]
    return np.concatenate(columns_CS), _order_columns(past, first_KT, n)


def _amount_columns(
    past: PastEvents, bought_T: np.ndarray, month_S: np.ndarray, amount_n: np.ndarray
) -> np.ndarray:
    """Compares a purchase's amount with the earlier purchases of the last 30 days and of the list.

    NaN for fewer than MIN_EARLIER_PURCHASES; amount_ratio and amount_z are also NaN if the scored
    event is not a purchase. month_S: index of each list's first event in the 30 days.
    """
    earlier_T = bought_T.copy()
    earlier_T[past.end_S[past.end_S > past.start_S] - 1] = False
    bound_SB = np.array([past.start_S, month_S, past.end_S]).T
    earlier_CT = np.array([earlier_T, earlier_T * past.amount_T])
    count_WS, sum_WS = sums_to_last(earlier_CT, bound_SB).swapaxes(1, 2)
    divisor_WS = np.maximum(count_WS, 1)
    mean_WS = sum_WS / divisor_WS
    # Deviations from each list's mean keep precision: squares of large amounts in one list would
    # cancel the digits of small ones in another.
    deviation_WT = np.where(earlier_T, past.amount_T - mean_WS.take(past.list_T, axis=1), 0.0)
    square_WSW = sums_to_last(deviation_WT**2, bound_SB)
    spread_WS = np.sqrt(square_WSW[[0, 1], :, [0, 1]] / divisor_WS)
    amount_S = of_owners(amount_n)
    known_WS = count_WS >= MIN_EARLIER_PURCHASES
    compared_WS = known_WS & past.own(bought_T)
    columns_CWS = np.where(
        [known_WS, known_WS, compared_WS, compared_WS],
        [
            mean_WS,
            spread_WS,
            amount_S / np.maximum(mean_WS, MIN_AMOUNT),
            (amount_S - mean_WS) / np.maximum(spread_WS, MIN_AMOUNT),
        ],
        np.nan,
    )
    # How many events the list has and how far back it reaches; older events are unknown.
    events_S = past.end_S - past.start_S
    age_T = np.append(past.age_T, 0)
    first_S = np.minimum(past.start_S, len(past.age_T))
    days_S = np.where(events_S > 0, age_T[first_S] / DAY_MS, 0.0)
    since_S = np.where(events_S > 1, age_T[np.maximum(past.end_S - 2, 0)] / SECOND_MS, np.nan)
    return np.concatenate([*columns_CWS, [count_WS[1], events_S, days_S, since_S]])


def _order_columns(past: PastEvents, first_KT: np.ndarray, n: int) -> np.ndarray:
    """Columns of the users' events before the scored one; NaN if there is no such event.

    The columns by place show an order exactly. Those by type hardly change if another event comes
    in between. The gap between the scored event and the one before it is seconds_since_event.
    first_KT: whether an event is the first of the user with its entity.
    """
    start_n, end_n = past.start_S[:n], past.end_S[:n]
    events = int(end_n[-1]) if n else 0
    letter_T = past.letter_T[:events]
    # The index -1 of a missing event is that of the NaN at the end.
    number_T = np.append(_TYPE_NUMBER[letter_T], np.nan)
    age_s_T = np.append(past.age_T[:events] / SECOND_MS, np.nan)
    index_Cn = end_n - 1 - _BACK
    index_Cn[index_Cn < start_n] = -1
    age_s_Cn = age_s_T[index_Cn]
    is_type_CT = letter_T == _LETTERS
    last_CT = np.maximum.accumulate(np.where(is_type_CT, np.arange(events), -1), axis=1)
    last_CT = np.append(last_CT, np.full((len(_LETTERS), 1), -1), axis=1)
    last_Cn = last_CT[:, np.maximum(end_n - 2, 0)]
    last_Cn = np.where((end_n - 2 >= start_n) & (last_Cn >= start_n), last_Cn, -1)
    since_Cn = np.where(last_Cn >= 0, end_n - 1.0 - last_Cn, np.nan)
    is_new_Kn = np.where(past.own(past.key_KT)[:, :n] != MISSING, past.own(first_KT)[:, :n], np.nan)
    gap_s_Cn = age_s_Cn[1:] - age_s_Cn[:-1]
    return np.concatenate([number_T[index_Cn], gap_s_Cn, age_s_T[last_Cn], since_Cn, is_new_Kn])


def _fraud_columns(past: PastEvents, before_T: np.ndarray, delayed_BS: np.ndarray) -> np.ndarray:
    """Columns of known frauds.

    frauds and fraud_rate cover spans up to now, where most labels may not have arrived yet. risk
    and settled cover spans that end at the label delay, whose labels have matured, as in chapter 3
    of Le Borgne et al., "Reproducible Machine Learning for Credit Card Fraud Detection" (2022).

    before_T: (T + 1,) known frauds before each event. delayed_BS: index of the first event of each
    of LABEL_SPANS before the delay, then index after the last.
    """
    delayed_WS, until_S = delayed_BS[:-1], delayed_BS[-1]
    settled_WS = until_S - delayed_WS
    risk_WS = (before_T[until_S] - before_T[delayed_WS]) / np.maximum(settled_WS, 1)
    # The label was given within the span, even if the list lacks the event.
    labels_WS = [
        np.bincount(past.label_list_L[past.label_age_L < SPANS_MS[span]], minlength=len(past.end_S))
        for span in LABEL_SPANS
    ]
    fraud_indices, count = np.flatnonzero(past.fraud_T), len(past.fraud_T)
    age_T = np.append(past.age_T, 0) / DAY_MS
    last_S = np.append(-1, fraud_indices)[before_T[past.end_S]]
    last_days_S = np.where(last_S >= past.start_S, age_T[last_S], np.nan)
    # The first known fraud in each of SPREE_SPANS.
    spree_WS = delayed_WS[-len(SPREE_SPANS) :]
    first_WS = np.append(fraud_indices, count)[before_T[spree_WS]]
    has_first_WS = first_WS < past.end_S
    events_WS = np.maximum(until_S - first_WS, 1)
    frauds_WS = np.maximum(before_T[until_S] - before_T[first_WS], 0)
    first_days_WS = np.where(has_first_WS, age_T[first_WS], np.nan)
    first_risk_WS = np.where(has_first_WS, frauds_WS / events_WS, 0.0)
    columns = [settled_WS, risk_WS, labels_WS, first_days_WS, first_risk_WS, [last_days_S]]
    return np.concatenate(columns)
