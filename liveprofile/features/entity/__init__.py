"""Features of a scored event, from the event lists of its user and its shared entities.

Stream, backfill and training use the same definitions: `parse_lists` reads the job's lists as text,
`features_from_lists` takes lists. A span covers the events in
(t - span, t], the scored event included. Later events and labels that were given later do not
count. NaN means unknown.

Array suffixes: n events, S lists.
"""

from __future__ import annotations

import numpy as np

from liveprofile.features.entity.catalogue import EVENT_FEATURES, ORDER_FEATURES, Feature
from liveprofile.features.entity.columns import (
    ORDER_DEPTH,
    SCORED_TYPES,
    entity_columns,
    user_columns,
)
from liveprofile.features.entity.past_events import EventLists, parse_lists, type_letter
from liveprofile.units import DAY_MS, HOUR_MS
from liveprofile.wire.entity_lists import InvalidLists, TokenLists
from liveprofile.wire.scored_events import ENTITY_NAMES, EventBatch

__all__ = [
    "EVENT_FEATURES",
    "ORDER_DEPTH",
    "ORDER_FEATURES",
    "SCORED_TYPES",
    "EventBatch",
    "EventLists",
    "Feature",
    "InvalidLists",
    "TokenLists",
    "features_from_lists",
    "parse_lists",
    "type_letter",
]

NIGHT_UNTIL_HOUR = 6
_MONDAY = 3  # 1970-01-01 was a Thursday


def features_from_lists(rows: EventLists, delay_days: float) -> dict[str, np.ndarray]:
    """(n,) float64 for each of EVENT_FEATURES.

    delay_days: the matured features leave out the events of this last time, whose labels may still
    arrive.
    """
    delay_ms = round(delay_days * DAY_MS)
    columns = _event_columns(rows)
    columns |= {f"user_{name}": values_n for name, values_n in user_columns(rows, delay_ms).items()}
    for name, values_S in entity_columns(rows, delay_ms).items():
        for entity, values_n in zip(
            ENTITY_NAMES, values_S.reshape(len(ENTITY_NAMES), -1), strict=True
        ):
            columns[f"{entity}_{name}"] = values_n
    return {name: columns[name].astype(np.float64, copy=False) for name in EVENT_FEATURES}


def _event_columns(rows: EventLists) -> dict[str, np.ndarray]:
    hour_n = rows.event_ms // HOUR_MS % 24
    columns = {
        "amount": rows.amount,
        "hour": hour_n,
        "weekend": (rows.event_ms // DAY_MS + _MONDAY) % 7 >= 5,
        "night": hour_n <= NIGHT_UNTIL_HOUR,
    }
    return columns | {
        f"is_{event_type}": rows.letter == type_letter(event_type) for event_type in SCORED_TYPES
    }
