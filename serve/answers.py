"""Answers: stored rows as JSON, and pages with opaque cursors.

A cursor is the position of the last row that was examined.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import orjson
from fastapi import Depends, Query, Request
from starlette.responses import Response

from liveprofile.storage.queries import names_of
from liveprofile.value_curves import (
    KEY,
    STORED_COLUMNS,
    reading_time_ms,
    values_at,
)
from serve.api_models import MAX_PAGE_ROWS
from serve.problems import ApiError
from serve.store.statements import END_OF_TIME_MS, START_OF_TIME_MS, RawDelta, RawProfile
from services.alerts.alerts import FlagFile
from services.alerts.flags import FlagWithState

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


Cursor = Annotated[
    str | None, Query(max_length=MAX_CURSOR_CHARS, description="next_cursor of the page before")
]


async def page_query(
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_ROWS)] = DEFAULT_ROWS, cursor: Cursor = None
) -> PageQuery:
    return PageQuery(limit, cursor)


Paging = Annotated[PageQuery, Depends(page_query)]


def cursor_of(position: Position) -> str:
    """The cursor of a page that begins after `position`."""
    return base64.urlsafe_b64encode(orjson.dumps(list(position))).decode("ascii").rstrip("=")


def dumps(value: Any) -> bytes:
    """JSON; named tuples become objects, arrays lists."""
    return orjson.dumps(value, lambda row: row._asdict(), orjson.OPT_SERIALIZE_NUMPY)


def json_response(value: Any, headers: Mapping[str, str] | None = None) -> Response:
    return Response(dumps(value), 200, headers, "application/json")


def tagged_response(request: Request, value: Any, tag: str | None = None) -> Response:
    """The answer with an ETag, or 304 if the caller has it already (RFC 9110, 13.1.2).

    tag: of the value; by default a digest of it.
    """
    body = dumps(value)
    tag = f'"{tag or hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Authorization"}
    known = request.headers.get("if-none-match", "")
    if known.strip() == "*" or tag in {
        each.strip().removeprefix("W/") for each in known.split(",")
    }:
        return Response(None, 304, headers)
    return Response(body, 200, headers, "application/json")


def page_response(
    items: Iterable[Any],
    examined: Sequence[Any],
    limit: int,
    position: Callable[[Any], Position],
) -> Response:
    """A page with the cursor after the last row that was examined.

    examined: rows that were asked for with `limit`; fewer mean that there is no next page.
    """
    cursor = cursor_of(position(examined[-1])) if len(examined) >= limit else None
    return json_response({"items": list(items), "next_cursor": cursor})


def profile_answer(row: RawProfile, now_ms: int) -> dict[str, Any]:
    """The row, with churn and expected spend as of now if it has a curve."""
    # Fragment copies the JSON as it is stored.
    answer = row._asdict() | {
        "segments": names_of(row.segments),
        "profile": orjson.Fragment(row.profile),
        "values_at_ms": row.window_end_ms,
    }
    if KEY in row.profile and (document := orjson.loads(row.profile)).get(KEY):
        at_ms = reading_time_ms(now_ms, row.window_end_ms)
        stored = {name: answer[name] for name in STORED_COLUMNS}
        values = values_at(document, stored, row.window_end_ms, at_ms)
        answer |= {name: values[name] for name in STORED_COLUMNS} | {"values_at_ms": at_ms}
    if row.embedding is None:
        del answer["embedding"]
    return answer


def past_answer(row: RawDelta, at_ms: int) -> dict[str, Any]:
    """What the delta says about the profile after its window, with the values at that time."""
    delta = orjson.loads(row.delta)
    features = delta.get("after") or {}
    values = values_at(delta, features, row.window_end_ms, at_ms)
    return {
        "user_id": row.user_id,
        "at_ms": at_ms,
        "window_start_ms": row.window_start_ms,
        "window_end_ms": row.window_end_ms,
        "model_version": row.model_version,
        **{name: values[name] for name in STORED_COLUMNS},
        "features": features,
    }


def delta_answer(row: RawDelta) -> dict[str, Any]:
    return row._asdict() | {
        "active_rules": names_of(row.active_rules),
        "delta": orjson.Fragment(row.delta),
    }


def alert_position(row: FlagWithState) -> Position:
    flag = row.flag
    return (flag.window_end_ms, flag.user_id, flag.rule_id, flag.event_id)


def alert_answer(row: FlagWithState) -> dict[str, Any]:
    return row.flag._asdict() | row.state._asdict()


def details_answer(file: FlagFile) -> dict[str, Any]:
    rest = {name: value for name, value in file._asdict().items() if name not in ("flag", "state")}
    return alert_answer(FlagWithState(file.flag, file.state)) | rest
