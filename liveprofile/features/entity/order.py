"""Computes in which order, and how long after each other, a user's last events came.

Array suffixes: S lists, T events of all lists.
"""

from __future__ import annotations

import numpy as np

from liveprofile.features.entity.past_events import PastEvents
from liveprofile.units import SECOND_MS
from liveprofile.wire.tokens import TYPE_INDEX, TYPE_LETTERS

SCORED_TYPES = ("purchase", "return", "login", "coupon", "follow", "share")
ORDER_DEPTH = 8  # earlier events whose types and gaps are features


def type_letter(event_type: str) -> int:
    return ord(TYPE_LETTERS[TYPE_INDEX[event_type]])


# Position in SCORED_TYPES by letter.
_TYPE_NUMBER = np.full(256, np.nan)
_TYPE_NUMBER[[type_letter(name) for name in SCORED_TYPES]] = np.arange(len(SCORED_TYPES))


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
