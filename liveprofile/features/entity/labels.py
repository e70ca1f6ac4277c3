"""Known frauds: joins the labels in a list to its events.

Array suffixes: S lists, T events of all lists, L labelled events, B bounds, W spans.
"""

from __future__ import annotations

import numpy as np

from liveprofile.features.entity.past_events import (
    SPANS_MS,
    PastEvents,
    in_order_of_time,
    sums_between,
    sums_to_last,
)
from liveprofile.units import DAY_MS
from liveprofile.wire.entity_lists import FRAUD, is_event

LABEL_SPANS = ("1d", "7d", "30d", "90d")
SPREE_SPANS = ("7d", "30d", "90d")  # the first fraud within a span starts a spree
_HASH_BITS = 32


class KnownLabels:
    """The labels known at each list's time. The latest label of an event counts."""

    def __init__(self, past: PastEvents):
        lists = past.lists
        list_T = np.repeat(np.arange(len(past.now_ms_S)), np.diff(lists.starts))
        age_T = past.now_ms_S[list_T] - lists.time_ms
        index_L = np.flatnonzero(~is_event(lists.letter) & (age_T >= 0))
        index_L = in_order_of_time(index_L, list_T, age_T)
        key_L = _key(list_T[index_L], lists.event[index_L])
        # np.unique returns the first of equal keys, which is the latest in reversed order.
        self.key_L, reversed_L = np.unique(key_L[::-1], return_index=True)
        index_L = index_L[::-1][reversed_L]
        self.fraud_L = lists.letter[index_L] == ord(FRAUD)
        self.age_L, self.list_L = age_T[index_L], list_T[index_L]

    def is_fraud(self, past: PastEvents) -> np.ndarray:
        """(T,) bool: the event is a known fraud."""
        if not self.fraud_L.any():
            return np.zeros(len(past.list_T), bool)
        frauds = self.key_L[self.fraud_L]
        key_T = _key(past.list_T, past.event_T)
        index_T = np.minimum(np.searchsorted(frauds, key_T), len(frauds) - 1)
        return frauds[index_T] == key_T

    def labelled_within(self, span: str, lists: int) -> np.ndarray:
        """(S,) frauds whose label was given within the span, even if the list lacks the event."""
        recent = self.list_L[self.fraud_L & (self.age_L < SPANS_MS[span])]
        return np.bincount(recent, minlength=lists).astype(np.float64)


def _key(list_T: np.ndarray, event_T: np.ndarray) -> np.ndarray:
    return (list_T << _HASH_BITS) + event_T


def fraud_columns(past: PastEvents, delay_ms: int) -> dict[str, np.ndarray]:
    """(S,) columns of known frauds.

    frauds and fraud_rate cover spans up to now, where most labels may not have arrived yet. risk
    and settled cover spans that end `delay_ms` ago, whose labels have matured, as in chapter 3 of
    Le Borgne et al., "Reproducible Machine Learning for Credit Card Fraud Detection" (2022).
    """
    labels = KnownLabels(past)
    fraud_T = labels.is_fraud(past)
    longest_first = LABEL_SPANS[::-1]
    ages_ms = [SPANS_MS[span] for span in longest_first]
    now_SB = past.bounds(*ages_ms, 0)
    delayed_SB = past.bounds(*(delay_ms + age_ms for age_ms in ages_ms), delay_ms)
    frauds_SW = sums_to_last([fraud_T], now_SB)[0]
    delayed_SW = sums_to_last([fraud_T], delayed_SB)[0]
    columns: dict[str, np.ndarray] = {}
    for w, span in enumerate(longest_first):
        events_S = now_SB[:, -1] - now_SB[:, w]
        matured_S = delayed_SB[:, -1] - delayed_SB[:, w]
        columns[f"frauds_{span}"] = frauds_SW[:, w]
        columns[f"fraud_rate_{span}"] = frauds_SW[:, w] / np.maximum(events_S, 1)
        columns[f"fraud_labels_{span}"] = labels.labelled_within(span, len(past.now_ms_S))
        columns[f"settled_{span}"] = matured_S
        columns[f"risk_{span}"] = delayed_SW[:, w] / np.maximum(matured_S, 1)
    columns |= _since_last_fraud(past, fraud_T)
    for span in SPREE_SPANS:
        columns |= _since_first_fraud(past, fraud_T, delay_ms, span)
    return columns


def _since_last_fraud(past: PastEvents, fraud_T: np.ndarray) -> dict[str, np.ndarray]:
    fraud_indices = np.flatnonzero(fraud_T)
    padded_indices = np.concatenate([[-1], fraud_indices])
    last_S = padded_indices[np.searchsorted(fraud_indices, past.end_S)]
    age_T = np.append(past.age_T, 0) / DAY_MS
    return {"days_since_last_fraud": np.where(last_S >= past.start_S, age_T[last_S], np.nan)}


def _since_first_fraud(
    past: PastEvents, fraud_T: np.ndarray, delay_ms: int, span: str
) -> dict[str, np.ndarray]:
    count = len(fraud_T)
    fraud_indices = np.flatnonzero(fraud_T)
    padded_indices = np.append(fraud_indices, count)
    lookback_S = past.index_before(delay_ms + SPANS_MS[span])
    first_S = padded_indices[np.searchsorted(fraud_indices, lookback_S)]
    age_T = np.append(past.age_T, 0) / DAY_MS
    has_first_S = first_S < past.end_S
    matured_end_S = past.index_before(delay_ms)
    since_SB = np.minimum(np.array([first_S, matured_end_S]).T, count)
    events_S = since_SB[:, 1] - since_SB[:, 0]
    frauds_S = sums_between([fraud_T], since_SB)[0, :, 0]
    risk_S = np.where(has_first_S, frauds_S / np.maximum(events_S, 1), 0.0)
    return {
        f"days_since_first_fraud_{span}": np.where(has_first_S, age_T[first_S], np.nan),
        f"risk_since_first_fraud_{span}": risk_S,
    }
