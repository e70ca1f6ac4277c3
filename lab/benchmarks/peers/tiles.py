"""The computed attributes of a user in Python, as the Java aggregate TILES keeps them.

liveprofile.wire.attribute_tiles describes tiles and JSON. Here are the attributes that read no
other field of an event than its type, its time and its amount.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from liveprofile.attributes.catalogue import read_catalogue
from liveprofile.attributes.computed import Computation
from liveprofile.errors import ConfigError
from liveprofile.settings import Settings
from liveprofile.wire.tokens import EVENT_TYPES
from liveprofile.wire.window_events import amount

_FOREVER_TILES = 24
# How two values of a tile become one, the older one first.
_MERGES: Mapping[str, Callable[[float, float], float]] = {
    **dict.fromkeys(("count", "sum", "mean"), operator.add),
    "min": min,
    "max": max,
    "first": lambda older, newer: older,
    "last": lambda older, newer: newer,
    "hours_since": max,
}


class SimpleAttribute(NamedTuple):
    id: str
    computation: Computation
    within_ms: int  # 0: for ever
    tile_ms: int
    types: frozenset[str]

    def value(self, event: Mapping[str, Any]) -> float:
        """What an event adds."""
        if self.computation.value:
            return amount(dict(event))
        return float(event["event_time"]) if self.computation.aggregate == "hours_since" else 1.0


def simple_attributes(settings: Settings) -> list[SimpleAttribute]:
    """Of the attributes in the settings. Raises ConfigError if one reads more of an event."""
    found = []
    for name, computation in read_catalogue(settings).computed_attributes:
        types = {*computation.of, *filter(None, [computation.since_last])}
        if computation.where or computation.value not in ("", "amount") or types - {*EVENT_TYPES}:
            raise ConfigError(
                f"attribute {name} reads more than type, time and amount of an event: the peers do"
                " not compute it"
            )
        of = frozenset(computation.of or EVENT_TYPES)
        found.append(
            SimpleAttribute(name, computation, computation.within_ms, computation.tile_ms, of)
        )
    return found


class UserTiles:
    """The tiles of a user's attributes: events and value by the start of the tile, ascending."""

    def __init__(self) -> None:
        self._tiles: dict[str, dict[int, tuple[int, float]]] = {}

    def add_window(
        self,
        definitions: Sequence[SimpleAttribute],
        events: Iterable[Mapping[str, Any]],
        end_ms: int,
    ) -> str:
        """Adds a window, which is later than those before; returns the JSON of TILES."""
        events = list(events)
        stored = {}
        for definition in definitions:
            tiles = self._tiles.setdefault(definition.id, {})
            _add(definition, tiles, events)
            _forget(definition, tiles, end_ms)
            stored[definition.id] = {
                "aggregate": definition.computation.aggregate,
                "within_ms": definition.within_ms,
                "tile_ms": definition.tile_ms,
                "tiles": [(start_ms, *tile) for start_ms, tile in tiles.items()],
            }
        return orjson.dumps(stored).decode()


def _add(
    definition: SimpleAttribute,
    tiles: dict[int, tuple[int, float]],
    events: Iterable[Mapping[str, Any]],
) -> None:
    merge, since_last = _MERGES[definition.computation.aggregate], definition.computation.since_last
    # What an attribute begins anew with counts after the events of the same time.
    tokens: list[tuple[int, bool, str, float]] = []
    for event in events:
        time_ms, kind = event["event_time"], event["event_type"]
        if kind in definition.types:
            value = definition.value(event)
            tokens.append((time_ms, False, str(value), value))
        if kind == since_last:
            tokens.append((time_ms, True, "", 0.0))
    for time_ms, begins_anew, _, value in sorted(tokens):
        if begins_anew:
            tiles.clear()
            continue
        start_ms = time_ms - time_ms % definition.tile_ms
        count, old = tiles.get(start_ms, (0, value))
        tiles[start_ms] = (count + 1, merge(old, value) if count else value)


def _forget(definition: SimpleAttribute, tiles: dict[int, tuple[int, float]], end_ms: int) -> None:
    if definition.within_ms:
        last_ms = end_ms - definition.within_ms - definition.tile_ms
        for start_ms in [start_ms for start_ms in tiles if start_ms <= last_ms]:
            del tiles[start_ms]
        return
    merge = _MERGES[definition.computation.aggregate]
    while len(tiles) > _FOREVER_TILES:
        oldest, first, *_ = tiles
        count, value = tiles.pop(oldest)
        more, newer = tiles[first]
        tiles[first] = (count + more, merge(value, newer))
