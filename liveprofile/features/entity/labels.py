"""Known frauds: the labels in a list, joined to its events."""

from __future__ import annotations

import numpy as np

from liveprofile.features.entity.lists import FRAUD, is_event
from liveprofile.features.entity.past import SPANS_MS, Past, between, in_order_of_time, totals
from liveprofile.units import DAY_MS

LABEL_SPANS = ("1d", "7d", "30d")
SPREE = "28d"  # how long frauds at one place are looked back for
_HASH_BITS = 32


class Labels:
    """What is known at each list's moment: of the labels of one event the latest counts."""

    def __init__(self, past: Past):
        lists = past.lists
        list_T = np.repeat(np.arange(len(past.now_ms_S)), np.diff(lists.starts))
        age_T = past.now_ms_S[list_T] - lists.time_ms
        index_L = np.flatnonzero(~is_event(lists.letter) & (age_T >= 0))
        index_L = in_order_of_time(index_L, list_T, age_T)
        key_L = _key(list_T[index_L], lists.event[index_L])
        # Of equal keys np.unique finds the first, and from behind that is the latest.
        self.key_L, behind_L = np.unique(key_L[::-1], return_index=True)
        index_L = index_L[::-1][behind_L]
        self.fraud_L = lists.letter[index_L] == ord(FRAUD)
        self.age_L, self.list_L = age_T[index_L], list_T[index_L]

    def frauds_of(self, past: Past) -> np.ndarray:
        """(T,) bool: the event is known to be a fraud."""
        if not self.fraud_L.any():
            return np.zeros(len(past.list_T), bool)
        frauds = self.key_L[self.fraud_L]
        key_T = _key(past.list_T, past.event_T)
        found_T = np.minimum(np.searchsorted(frauds, key_T), len(frauds) - 1)
        return frauds[found_T] == key_T

    def given_within(self, span: str, lists: int) -> np.ndarray:
        """(S,) frauds whose label was given within the span, be their event in the list or not."""
        recent = self.list_L[self.fraud_L & (self.age_L < SPANS_MS[span])]
        return np.bincount(recent, minlength=lists).astype(np.float64)


def _key(list_T: np.ndarray, event_T: np.ndarray) -> np.ndarray:
    return (list_T << _HASH_BITS) + event_T


def known_frauds(past: Past, delay_ms: int) -> dict[str, np.ndarray]:
    """Columns (S,) of what is known of frauds.

    frauds, fraud_rate: of a span up to now, most of whose labels may not be known yet. risk and
    settled: of the span that ends `delay_ms` ago, as in chapter 3 of Le Borgne et al.,
    "Reproducible Machine Learning for Credit Card Fraud Detection" (2022).
    """
    labels = Labels(past)
    fraud_T = labels.frauds_of(past)
    longest_first = LABEL_SPANS[::-1]
    ages_ms = [SPANS_MS[span] for span in longest_first]
    now_SB = past.bounds(*ages_ms, 0)
    delayed_SB = past.bounds(*(delay_ms + age_ms for age_ms in ages_ms), delay_ms)
    frauds_SW = totals([fraud_T], now_SB)[0]
    delayed_SW = totals([fraud_T], delayed_SB)[0]
    columns: dict[str, np.ndarray] = {}
    for w, span in enumerate(longest_first):
        events_S = now_SB[:, -1] - now_SB[:, w]
        settled_S = delayed_SB[:, -1] - delayed_SB[:, w]
        columns[f"frauds_{span}"] = frauds_SW[:, w]
        columns[f"fraud_rate_{span}"] = frauds_SW[:, w] / np.maximum(events_S, 1)
        columns[f"fraud_labels_{span}"] = labels.given_within(span, len(past.now_ms_S))
        columns[f"settled_{span}"] = settled_S
        columns[f"risk_{span}"] = delayed_SW[:, w] / np.maximum(settled_S, 1)
    return columns | _spree(past, fraud_T, delay_ms)


def _spree(past: Past, fraud_T: np.ndarray, delay_ms: int) -> dict[str, np.ndarray]:
    count = len(fraud_T)
    fraud_places = np.flatnonzero(fraud_T)
    places = np.concatenate([[-1], fraud_places, [count]])
    behind_S = np.searchsorted(fraud_places, past.end_S)
    last_S = places[behind_S]
    from_S = past.index_before(delay_ms + SPANS_MS[SPREE])
    first_S = places[np.searchsorted(fraud_places, from_S) + 1]
    age_T = np.append(past.age_T, 0) / DAY_MS
    began_S = first_S < past.end_S
    settled_S = past.index_before(delay_ms)
    since_SB = np.minimum(np.array([first_S, settled_S]).T, count)
    events_S = since_SB[:, 1] - since_SB[:, 0]
    frauds_S = between([fraud_T], since_SB)[0, :, 0]
    return {
        "days_since_last_fraud": np.where(last_S >= past.start_S, age_T[last_S], np.nan),
        "days_since_first_fraud": np.where(began_S, age_T[first_S], np.nan),
        "risk_since_first_fraud": np.where(began_S, frauds_S / np.maximum(events_S, 1), 0.0),
    }
