"""Computed attributes on their way from events to stored profiles: tokens and tiles.

The tokens of an event are its time in ms and a token for each attribute that it changes, joined by
commas. A token is "+", the digest of the attribute, "=" and the value that the event adds; or "-"
and the digest, if the attribute begins anew after the event. The tokens of a window are those of
its events, joined by spaces, in any order. They count in the order of time, of one time in that of
their texts.

A tile is the count and the value of a span of time. The Java aggregate TILES (jobs/java/Tiles.java)
reads the tokens of the user's windows and writes the tiles as JSON, which the stored profile has
under TILES_KEY:

    {"open_carts": {"aggregate": "count", "within_ms": 7200000, "tile_ms": 360000,
                    "tiles": [[start_ms, events, value], ...]}, ...}
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import orjson

TILES_KEY = "attribute_tiles"


class TileDefinition(NamedTuple):
    """How TILES keeps the tiles of an attribute."""

    attribute: str
    digest: str  # 8 hexadecimal digits
    aggregate: str
    merge: str  # how two values of a tile become one: sum, min, max, first or last
    within_ms: int  # 0: for ever
    tile_ms: int
    max_tiles: int  # of an attribute that counts for ever: older tiles become one


class AttributeTiles(NamedTuple):
    """The tiles of one attribute of a user."""

    aggregate: str
    within_ms: int  # 0: for ever
    tile_ms: int
    tiles: list[list[float]]  # start in ms, events and value of each, in order of time


def value_token_sql(digest: str, condition: str, value: str) -> str:
    """SQL: the token of an event that adds a value, a number; NULL where the condition is false."""
    return f"CASE WHEN {condition} THEN CONCAT('+{digest}=', CAST({value} AS STRING)) END"


def restart_token_sql(digest: str, condition: str) -> str:
    """SQL: the token of an event after which the attribute begins anew, or NULL."""
    return f"CASE WHEN {condition} THEN '-{digest}' END"


def event_tokens_sql(ms: str, tokens: Iterable[str]) -> str:
    """SQL: the tokens of an event; NULL if all of `tokens` are. `ms`: BIGINT."""
    joined = ", ".join(tokens)
    if not joined:
        return "CAST(NULL AS STRING)"
    return f"CONCAT(CAST({ms} AS STRING), ',', NULLIF(CONCAT_WS(',', {joined}), ''))"


def window_tokens_sql(event_tokens: str) -> str:
    """SQL aggregate: the tokens of a window; NULL if no event has any."""
    return f"LISTAGG({event_tokens}, ' ')"


def tiles_sql(
    definitions: Iterable[TileDefinition], window_tokens: str, end_ms: str, over: str
) -> str:
    """SQL: the JSON of the tiles after a window.

    A job without attributes has it too, so that it can go on as one with attributes.
    """
    text = ";".join(
        f'{each.digest} {each.merge} {each.within_ms} {each.tile_ms} {each.max_tiles} "'
        f'{each.attribute}":{{"aggregate":"{each.aggregate}","within_ms":{each.within_ms},'
        f'"tile_ms":{each.tile_ms},"tiles":['
        for each in definitions
    )
    return f"TILES({window_tokens}, {end_ms}, '{text}') {over}"


def read_tiles(document: Mapping[str, Any]) -> dict[str, AttributeTiles]:
    """The tiles of each attribute in the parsed JSON of TILES."""
    return {name: AttributeTiles(**stored) for name, stored in document.items()}


def tiles_since(text: str, first_ms: int) -> str:
    """The JSON of TILES without tiles that begin before `first_ms`."""
    document = orjson.loads(text or "{}")
    for stored in document.values():
        stored["tiles"] = [tile for tile in stored["tiles"] if tile[0] >= first_ms]
    return orjson.dumps(document).decode()
