"""Pages with opaque cursors: a cursor is the position of the last row that was examined."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, NamedTuple

import orjson
from fastapi import Depends, Query

from liveprofile.client.models import (
    MAX_PAGE_ROWS,
)
from serve.problems import ApiError
from serve.store.protocol import END_OF_TIME_MS, START_OF_TIME_MS

DEFAULT_ROWS = 50
MAX_CURSOR_CHARS = 4_096

Position = tuple[int | str, ...]


class PageQuery(NamedTuple):
    """`limit` and `cursor` of a request."""

    limit: int
    cursor: str | None

    def position(self, *types: type) -> Position | None:
        """The row that the page begins after, None for the first page.

        types: int or str, one for each part of the position. Raises ApiError for a cursor that
        another route has made, or nobody.
        """
        if self.cursor is None:
            return None
        try:
            padded = self.cursor + "=" * (-len(self.cursor) % 4)
            parts: Any = orjson.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
        except (binascii.Error, UnicodeEncodeError, orjson.JSONDecodeError, ValueError):
            parts = None
        if (
            not isinstance(parts, list)
            or [type(part) for part in parts] != list(types)
            or any(
                not START_OF_TIME_MS < part < END_OF_TIME_MS
                for part in parts
                if isinstance(part, int)
            )
        ):
            raise invalid_cursor()
        return tuple(parts)


def invalid_cursor() -> ApiError:
    return ApiError(
        400, "invalid-cursor", "cursor: pass the next_cursor of the page before, unchanged"
    )


async def page_query(
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_ROWS)] = DEFAULT_ROWS,
    cursor: Annotated[
        str | None, Query(max_length=MAX_CURSOR_CHARS, description="next_cursor of the page before")
    ] = None,
) -> PageQuery:
    return PageQuery(limit, cursor)


Paging = Annotated[PageQuery, Depends(page_query)]


def cursor_of(position: Position) -> str:
    """The cursor of a page that begins after `position`."""
    return base64.urlsafe_b64encode(orjson.dumps(list(position))).decode("ascii").rstrip("=")
