"""Features of a scored event, from the event lists of its user and its shared entities.

Stream, backfill and training use the same definitions: `parse_lists` reads the job's lists as text,
`features_from_lists` takes lists. A span covers the events in
(t - span, t], the scored event included. Later events and labels that were given later do not
count. NaN means unknown.

Array suffixes: n events, E features, S lists, C columns.
"""

import numpy as np

from liveprofile.features.entity.catalogue import EVENT_FEATURES, ORDER_FEATURES, Feature
from liveprofile.features.entity.columns import (
    LIST_COLUMNS,
    ORDER_DEPTH,
    SCORED_TYPES,
    USER_COLUMNS,
    list_columns,
)
from liveprofile.features.entity.past_events import EventLists, parse_lists, type_letter
from liveprofile.units import DAY_MS, HOUR_MS
from liveprofile.wire.entity_lists import InvalidListsError, TokenLists
from liveprofile.wire.scored_events import ENTITY_NAMES, EventBatch

__all__ = [
    "COLUMN_OF",
    "EVENT_FEATURES",
    "ORDER_DEPTH",
    "ORDER_FEATURES",
    "SCORED_TYPES",
    "EventBatch",
    "EventLists",
    "Feature",
    "InvalidListsError",
    "TokenLists",
    "features_from_lists",
    "parse_lists",
    "type_letter",
]

NIGHT_UNTIL_HOUR = 6
_MONDAY = 3  # 1970-01-01 was a Thursday
_SCORED_LETTERS = np.array([[type_letter(name)] for name in SCORED_TYPES], np.uint8)
COLUMN_OF = {name: index for index, name in enumerate(EVENT_FEATURES)}


def _rows(owner: str, columns: tuple[str, ...]) -> list[int]:
    """The rows of an owner's features among the columns of its lists."""
    names = (name.partition("_") for name in EVENT_FEATURES)
    return [columns.index(column) for prefix, _, column in names if prefix == owner]


_USER_ROWS = _rows("user", LIST_COLUMNS + USER_COLUMNS)
_ENTITY_ROWS = _rows(ENTITY_NAMES[0], LIST_COLUMNS)


def features_from_lists(rows: EventLists, delay_days: float) -> np.ndarray:
    """(n, E) float64: EVENT_FEATURES of each event.

    delay_days: the matured features leave out the events of this last time, whose labels may still
    arrive.
    """
    of_lists_CS, of_users_Cn = list_columns(rows, round(delay_days * DAY_MS))
    n = len(rows.event_ms)
    of_entities_CS = of_lists_CS[_ENTITY_ROWS, n:]
    of_entities_CS[:, np.diff(rows.entity_lists.starts) == 0] = np.nan
    by_entity = of_entities_CS.reshape(len(_ENTITY_ROWS), len(ENTITY_NAMES), n).swapaxes(0, 1)
    of_users_Cn = np.concatenate([of_lists_CS[:, :n], of_users_Cn])[_USER_ROWS]
    return np.concatenate([_event_columns(rows), of_users_Cn, *by_entity]).T


def _event_columns(rows: EventLists) -> np.ndarray:
    hour_n = rows.event_ms // HOUR_MS % 24
    weekend_n = (rows.event_ms // DAY_MS + _MONDAY) % 7 >= 5
    columns = [rows.amount, hour_n, weekend_n, hour_n <= NIGHT_UNTIL_HOUR]
    return np.concatenate([columns, rows.letter == _SCORED_LETTERS])
