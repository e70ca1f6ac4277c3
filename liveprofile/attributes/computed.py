"""Attributes that the job computes from events: definitions, what an event adds, values at a time.

The job keeps an attribute's events of a user in tiles (liveprofile/wire/attribute_tiles.py), which
the profile stores. So whoever reads a profile has the value at any later time if no event follows
(`values_at`). An event counts for `within`, and for at most 5 % longer, until its tile has passed.
"""

import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, Self

import orjson
from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from liveprofile.attributes.event_types import EVENT_FIELDS, NO_OWN_TYPES, EventTypes
from liveprofile.rules.conditions import (
    ConditionError,
    ValueKind,
    parse_condition,
)
from liveprofile.rules.expression_sql import expression_sql
from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS
from liveprofile.wire.attribute_tiles import (
    AttributeTiles,
    TileDefinition,
    event_tokens_sql,
    read_tiles,
    restart_token_sql,
    value_token_sql,
)
from liveprofile.wire.tokens import EVENT_TYPES

Aggregate = Literal["count", "sum", "mean", "min", "max", "first", "last", "hours_since"]
# How two values of a tile become one.
_MERGES: Mapping[Aggregate, str] = {
    **dict.fromkeys(("count", "sum", "mean"), "sum"),
    **{name: name for name in ("min", "max", "first", "last")},
    "hours_since": "max",
}
_UNITS = {"min": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}
_SHORTEST_MS, _LONGEST_MS = 5 * MINUTE_MS, 400 * DAY_MS
_TILES = 20  # of a span
_FOREVER_TILES, _FOREVER_TILE_MS = 24, 30 * DAY_MS  # without a span; older tiles become one


class Computation(BaseModel):
    """How an attribute is computed: an aggregate of the user's events.

    of: event types, all if empty. where: a condition on fields of events. value: a number of them.
    within: such as "30 min", "2 h", "90 d"; "" is for ever. since_last: an event type; only events
    after the last one of it count. One of the twelve event types stands for all with this role.

    The context of the validation: the EventTypes, if the shop has declared some.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: tuple[str, ...] = ()
    where: str = ""
    aggregate: Aggregate
    value: str = ""
    within: str = ""
    since_last: str = ""

    @field_validator("of", mode="before")
    @classmethod
    def _one_or_more(cls, of: object) -> object:
        return (of,) if isinstance(of, str) else of

    @model_validator(mode="after")
    def _is_valid(self, info: ValidationInfo) -> Self:
        types: EventTypes = info.context or NO_OWN_TYPES
        for name in (*self.of, *filter(None, [self.since_last])):
            if name not in types.by_name:
                raise ValueError(f"{name} is no event type: {', '.join(types.by_name)}")
        if bool(self.value) is (self.aggregate in ("count", "hours_since")):
            needs = "has no value" if self.value else "needs a value, such as amount"
            raise ValueError(f"aggregate {self.aggregate} {needs}")
        _ = self.within_ms
        try:
            key, condition = "where", self.where
            if condition:
                parse_condition(condition, types.fields, {})
            key, condition = "value", self.value
            if condition:
                parse_condition(f"({condition}) < 0", types.fields, {})
        except ConditionError as error:
            column = max(1, error.position + (key == "where"))
            raise ValueError(f"{key}, column {column}: {error.reason}") from None
        return self

    @property
    def within_ms(self) -> int:
        """0: for ever."""
        return _span_ms(self.within)

    @property
    def tile_ms(self) -> int:
        return -(-self.within_ms // _TILES) or _FOREVER_TILE_MS

    def _matches_sql(self, names: Mapping[str, str]) -> str:
        types = " OR ".join(map(_is_type_sql, self.of))
        parts = (types and f"({types})", self.where and expression_sql(self.where, names))
        return " AND ".join(filter(None, parts)) or "TRUE"

    def _value_sql(self, names: Mapping[str, str], ms: str) -> str:
        if self.value:
            return expression_sql(self.value, names)
        return ms if self.aggregate == "hours_since" else "1"


def _is_type_sql(name: str) -> str:
    return f"{'event_type' if name in EVENT_TYPES else 'event_name'} = '{name}'"


def _property_sql(name: str, kind: ValueKind) -> str:
    sql = f"properties['{name}']"
    return f"CAST({sql} AS DOUBLE)" if kind == "number" else f"COALESCE({sql}, '')"


def _span_ms(text: str) -> int:
    """Raises ValueError."""
    if not text:
        return 0
    number, _, unit = text.partition(" ")
    if not number.isdecimal() or unit not in _UNITS:
        raise ValueError(f"within: must be such as {', '.join(f'2 {unit}' for unit in _UNITS)}")
    span_ms = int(number) * _UNITS[unit]
    if not _SHORTEST_MS <= span_ms <= _LONGEST_MS:
        raise ValueError("within: must be from 5 min to 400 d")
    return span_ms


class ComputedAttribute(NamedTuple):
    id: str
    computation: Computation

    @property
    def digest(self) -> str:
        """8 hexadecimal digits: a changed definition is another one and starts from nothing."""
        return f"{zlib.crc32(f'{self.id} {self.computation.model_dump_json()}'.encode()):08x}"

    @property
    def tile_definition(self) -> TileDefinition:
        how = self.computation
        kept = how.within_ms, how.tile_ms, _FOREVER_TILES
        return TileDefinition(self.id, self.digest, how.aggregate, _MERGES[how.aggregate], *kept)


def attribute_tokens_sql(
    attributes: Iterable[ComputedAttribute], fields: Mapping[str, ValueKind], ms: str
) -> str:
    """SQL: the tokens of the event of a row (liveprofile.wire.attribute_tiles).

    `ms`: BIGINT. fields: EventTypes.fields. The row has the columns EVENT_FIELDS, event_name and
    properties (jobs/sql/event_views.py).
    """
    names = {k: _property_sql(k, kind) for k, kind in fields.items() if k not in EVENT_FIELDS}
    tokens = []
    for attribute in attributes:
        how, digest = attribute.computation, attribute.digest
        tokens.append(value_token_sql(digest, how._matches_sql(names), how._value_sql(names, ms)))
        if how.since_last:
            tokens.append(restart_token_sql(digest, _is_type_sql(how.since_last)))
    return event_tokens_sql(ms, tokens)


def values_at(document: Mapping[str, Any], at_ms: int) -> dict[str, float | None]:
    """The value of each computed attribute of a user, if no event followed; None: unknown.

    document: the JSON of the tiles.
    """
    return {name: _value_at(stored, at_ms) for name, stored in read_tiles(document).items()}


def _value_at(stored: AttributeTiles, at_ms: int) -> float | None:
    aggregate, within_ms, tile_ms, tiles = stored
    if within_ms:
        first_ms = at_ms - within_ms - tile_ms
        tiles = [tile for tile in tiles if tile[0] > first_ms]
    if aggregate == "count":
        return float(sum(events for _, events, _ in tiles))
    values = [value for _, _, value in tiles]
    if aggregate == "sum":
        return float(sum(values))
    if not tiles:
        return None
    match aggregate:
        case "mean":
            return sum(values) / sum(events for _, events, _ in tiles)
        case "first" | "last":
            return values[0 if aggregate == "first" else -1]
        case "hours_since":
            return max(at_ms - max(values), 0) / HOUR_MS
    return min(values) if aggregate == "min" else max(values)


def values_of_rows(texts: Iterable[str], times_ms: Iterable[int]) -> list[dict[str, float | None]]:
    """`values_at` of the JSON of n users."""
    return [
        values_at(orjson.loads(text or "{}"), at_ms)
        for text, at_ms in zip(texts, times_ms, strict=True)
    ]
