"""Features of the lists of users and of shared entities: columns of one value a list."""

from __future__ import annotations

import numpy as np

from liveprofile.features.entity.labels import known_frauds
from liveprofile.features.entity.lists import ENTITIES, MISSING, Rows
from liveprofile.features.entity.past import Past, totals
from liveprofile.units import DAY_MS
from liveprofile.wire.tokens import TYPE_INDEX, TYPE_LETTERS

SPANS = ("1m", "10m", "1h", "1d", "7d", "30d")
DISTINCT_SPANS = ("1h", "1d", "7d")
MEAN_SPANS = ("1d", "7d", "30d")
USER_RATIO_SPANS = ("1d", "3d", "7d", "14d")
ENTITY_RATIO_SPANS = ("1d", "7d", "28d")
TINY_SPANS = ("1h", "1d", "7d")
NEW_SPANS = ("1d", "7d")
COUNTED = {"purchases": "purchase", "returns": "return", "logins": "login", "coupons": "coupon"}
PLURAL = {"device": "devices", "place": "places", "shop": "shops", "coupon": "coupon_ids",
          "address": "addresses"}  # fmt: skip
LARGE = 3.0  # times the usual amount
MOST = 20.0  # a ratio beyond it tells no more
TINY_AMOUNT = 2.0  # money: what a stolen card is tried with
LEAST = 1.0  # money: a usual amount or a spread below it is taken as this
SOME = 2  # earlier purchases from which on something is usual

Columns = dict[str, np.ndarray]


def letter(event_type: str) -> int:
    return ord(TYPE_LETTERS[TYPE_INDEX[event_type]])


def of_user(rows: Rows, delay_ms: int) -> Columns:
    """(n,) each."""
    past = Past(rows.of_user, rows.event_ms)
    bought_T = past.letter_T == letter("purchase")
    keys = {
        entity: past.firsts_and_lasts(ids_T)
        for entity, ids_T in zip(ENTITIES, past.ids, strict=True)
    }
    totals_of = past.totals(
        _summed(past, bought_T)
        | {what: past.letter_T == letter(event_type) for what, event_type in COUNTED.items()}
        | {PLURAL[entity]: last_T for entity, (_, last_T) in keys.items()}
    )
    columns = _any_owner(past, totals_of, SPANS, USER_RATIO_SPANS)
    for what in COUNTED:
        columns |= _named(what, totals_of[what], SPANS)
    for (entity, (first_T, _)), ids_T in zip(keys.items(), past.ids, strict=True):
        columns |= _named(PLURAL[entity], totals_of[PLURAL[entity]], DISTINCT_SPANS)
        has_n = past.own(ids_T) != MISSING
        columns[f"new_{entity}"] = np.where(has_n, past.own(first_T), np.nan)
    columns |= _own_amount(past, bought_T, rows.amount) | known_frauds(past, delay_ms)
    columns["seconds_since_purchase"] = past.seconds_since(bought_T)
    columns["seconds_since_login"] = past.seconds_since(past.letter_T == letter("login"))
    return columns


def of_entities(rows: Rows, delay_ms: int) -> Columns:
    """(5n,) each: of all devices, then of all places, ...; NaN where the event has none."""
    past = Past(rows.of_entities, np.tile(rows.event_ms, len(ENTITIES)))
    bought_T = past.letter_T == letter("purchase")
    first_T, last_T = past.firsts_and_lasts(past.ids[0])
    totals_of = past.totals(_summed(past, bought_T) | {"users": last_T, "new": first_T})
    columns = _any_owner(past, totals_of, MEAN_SPANS, ENTITY_RATIO_SPANS)
    columns |= _named("purchases", totals_of["purchases"], MEAN_SPANS)
    columns |= _named("users", totals_of["users"], DISTINCT_SPANS)
    for span in NEW_SPANS:
        events_S = np.maximum(totals_of["events"][span], 1)
        columns[f"new_user_share_{span}"] = totals_of["new"][span] / events_S
    columns |= _own_amount(past, bought_T, np.tile(rows.amount, len(ENTITIES)))
    columns |= known_frauds(past, delay_ms)
    none_S = np.diff(rows.of_entities.starts) == 0
    return {name: np.where(none_S, np.nan, values_S) for name, values_S in columns.items()}


def _summed(past: Past, bought_T: np.ndarray) -> dict[str, np.ndarray]:
    """What is added up over spans for every owner, (T,) each.

    The ratio tells how far a purchase was above what had been usual when it came.
    """
    count_T, usual_T = past.usual(bought_T)
    ratio_T = np.where(count_T >= SOME, past.amount_T / np.maximum(usual_T, LEAST), 1.0)
    return {
        "events": np.ones(len(bought_T)),
        "purchases": bought_T,
        "amount": bought_T * past.amount_T,
        "ratio": bought_T * np.minimum(ratio_T, MOST),
        "large": bought_T & (ratio_T > LARGE),
        "tiny": bought_T & (past.amount_T <= TINY_AMOUNT),
    }


def _named(what: str, by_span: Columns, spans: tuple[str, ...]) -> Columns:
    return {f"{what}_{span}": by_span[span] for span in spans}


def _any_owner(
    past: Past,
    totals_of: dict[str, Columns],
    amount_spans: tuple[str, ...],
    ratio_spans: tuple[str, ...],
) -> Columns:
    columns = _named("events", totals_of["events"], SPANS)
    columns |= _named("amount", totals_of["amount"], amount_spans)
    columns |= _named("large", totals_of["large"], ratio_spans)
    columns |= _named("tiny", totals_of["tiny"], TINY_SPANS)
    bought = totals_of["purchases"]
    for span in MEAN_SPANS:
        columns[f"mean_amount_{span}"] = _mean(totals_of["amount"][span], bought[span])
    for span in ratio_spans:
        columns[f"mean_ratio_{span}"] = _mean(totals_of["ratio"][span], bought[span])
    for span in TINY_SPANS:
        columns[f"tiny_share_{span}"] = totals_of["tiny"][span] / np.maximum(bought[span], 1)
    return columns | _reach(past)


def _mean(sum_S: np.ndarray, count_S: np.ndarray) -> np.ndarray:
    """NaN of nothing."""
    return np.where(count_S > 0, sum_S / np.maximum(count_S, 1), np.nan)


def _own_amount(past: Past, bought_T: np.ndarray, own_S: np.ndarray) -> Columns:
    """The own amount, if it is a purchase's, against the earlier purchases: of the whole list, and
    of the last 30 days. NaN where there are too few of them."""
    earlier_T = bought_T.copy()
    earlier_T[past.end_S[past.end_S > past.start_S] - 1] = False
    bounds_SB = np.array([past.start_S, past.index_before(30 * DAY_MS), past.end_S]).T
    count_SW, sum_SW = totals([earlier_T, earlier_T * past.amount_T], bounds_SB)
    some_SW = np.maximum(count_SW, 1)
    mean_SW = sum_SW / some_SW
    # Each from its own mean: squares of large amounts would swallow the digits of small ones.
    apart = [np.where(earlier_T, past.amount_T - mean_S[past.list_T], 0.0) for mean_S in mean_SW.T]
    square_WSW = totals([apart_T**2 for apart_T in apart], bounds_SB)
    spread_SW = np.sqrt(np.diagonal(square_WSW, axis1=0, axis2=2) / some_SW)
    asked_S = past.own(bought_T) != 0
    columns = {"earlier_purchases": count_SW[:, 0]}
    for w, end in enumerate(("", "_30d")):
        known_S = count_SW[:, w] >= SOME
        mean_S, spread_S = mean_SW[:, w], spread_SW[:, w]
        values = {
            "usual_amount": np.where(known_S, mean_S, np.nan),
            "amount_spread": np.where(known_S, spread_S, np.nan),
            "amount_ratio": np.where(known_S & asked_S, own_S / np.maximum(mean_S, LEAST), np.nan),
            "amount_z": np.where(
                known_S & asked_S, (own_S - mean_S) / np.maximum(spread_S, LEAST), np.nan
            ),
        }
        columns |= {f"{name}{end}": values_S for name, values_S in values.items()}
    return columns


def _reach(past: Past) -> Columns:
    """How much the list holds, and since when: what isn't in it is not known."""
    held_S = past.end_S - past.start_S
    age_T = np.append(past.age_T, 0)
    first_S = np.minimum(past.start_S, len(age_T) - 1)
    return {
        "list_events": held_S.astype(np.float64),
        "list_days": np.where(held_S > 0, age_T[first_S] / DAY_MS, 0.0),
        "seconds_since_event": past.seconds_since(past.age_T >= 0),
    }
