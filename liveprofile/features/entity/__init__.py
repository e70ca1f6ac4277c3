"""What is known of an event when it comes: features by the lists of its user and shared entities.

One definition for stream, backfill and training: the job's lists as text (`compute`), or lists that
were built from files (`from_rows`). A window is the time (t - span, t] of events, the own
event included; nothing later enters, and no label before it is given. NaN: not known.
"""

from __future__ import annotations

import numpy as np

from liveprofile.features.entity.columns import letter, of_entities, of_user
from liveprofile.features.entity.lists import ENTITIES, BadLists, Rows, TokenLists, read
from liveprofile.features.entity.names import NAMES, SCORED_TYPES, Name
from liveprofile.units import DAY_MS, HOUR_MS
from liveprofile.wire.scored_events import EventBatch

__all__ = [
    "NAMES", "SCORED_TYPES", "BadLists", "EventBatch", "Name", "Rows", "TokenLists", "compute",
    "from_rows", "read",
]  # fmt: skip

DELAY_DAYS = 7.0  # until most labels are known
NIGHT_UNTIL_HOUR = 6
_MONDAY = 3  # 1970-01-01 was a Thursday


def compute(batch: EventBatch, delay_days: float = DELAY_DAYS) -> dict[str, np.ndarray]:
    """(n,) float64 for each of NAMES. Raises BadLists if a text is no list of tokens."""
    return from_rows(read(batch), delay_days)


def from_rows(rows: Rows, delay_days: float = DELAY_DAYS) -> dict[str, np.ndarray]:
    """The same of lists that are read: (n,) float64 for each of NAMES."""
    delay_ms = round(delay_days * DAY_MS)
    columns = _of_event(rows)
    columns |= {f"user_{what}": values_n for what, values_n in of_user(rows, delay_ms).items()}
    for what, values_S in of_entities(rows, delay_ms).items():
        for entity, values_n in zip(ENTITIES, values_S.reshape(len(ENTITIES), -1), strict=True):
            columns[f"{entity}_{what}"] = values_n
    return {name: columns[name].astype(np.float64, copy=False) for name in NAMES}


def _of_event(rows: Rows) -> dict[str, np.ndarray]:
    hour_n = rows.event_ms // HOUR_MS % 24
    columns = {
        "amount": rows.amount,
        "hour": hour_n,
        "weekend": (rows.event_ms // DAY_MS + _MONDAY) % 7 >= 5,
        "night": hour_n <= NIGHT_UNTIL_HOUR,
    }
    return columns | {f"is_{one}": rows.letter == letter(one) for one in SCORED_TYPES}
