"""Parameters and descriptions that routes share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import Depends, Path, Query, Request

from liveprofile.client.models import ID_PATTERN, MAX_ID_CHARS
from liveprofile.units import SECOND_MS
from serve.keys import Role
from serve.problems import MEDIA_TYPE, ApiError
from serve.security import Caller, Require
from serve.store.protocol import Store

# A character has up to four bytes, each of three characters when encoded.
MAX_ENCODED_CHARS = 12 * MAX_ID_CHARS
# Cassandra stores times of any size, Python's datetime only these.
FIRST_MS, LAST_MS = -62_135_596_800_000, 253_402_300_799_999


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route for the OpenAPI document, with those that every route has."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": "Problem", "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in sorted({*statuses, 401, 403, 413, 422, 429, 503})
    }


async def store_of(request: Request) -> Store:
    return request.app.state.store


def decoded_id(name: str, text: str) -> str:
    """An id of the path, as routes match the encoded path. Raises ApiError 422."""
    try:
        value = unquote(text, errors="strict")
    except UnicodeDecodeError:
        value = ""
    if not 0 < len(value) <= MAX_ID_CHARS or any(char < " " for char in value):
        raise ApiError(
            422,
            "invalid-request",
            f"{name}: 1 to {MAX_ID_CHARS} characters in UTF-8 without control characters",
        )
    return value


def _id_path(description: str) -> Any:
    """The document describes the decoded id, FastAPI checks the encoded one."""
    return Path(
        max_length=MAX_ENCODED_CHARS,
        description=description,
        json_schema_extra={"minLength": 1, "maxLength": MAX_ID_CHARS, "pattern": ID_PATTERN},
    )


async def user_id_of(
    request: Request, user_id: Annotated[str, _id_path("User id, percent-encoded.")]
) -> str:
    request.state.user_id = decoded = decoded_id("user_id", user_id)
    return decoded


async def flag_id_of(flag_id: Annotated[str, _id_path("Id of the flag and its alert.")]) -> str:
    return decoded_id("flag_id", flag_id)


async def rule_id_of(rule_id: Annotated[str, _id_path("Rule id, or * for all rules.")]) -> str:
    return decoded_id("rule_id", rule_id)


def to_ms(time: datetime) -> int:
    """A time without a zone is UTC."""
    return int(time.replace(tzinfo=time.tzinfo or UTC).timestamp() * SECOND_MS)


DataStore = Annotated[Store, Depends(store_of)]
UserId = Annotated[str, Depends(user_id_of)]
FlagId = Annotated[str, Depends(flag_id_of)]
RuleId = Annotated[str, Depends(rule_id_of)]
Reader = Annotated[Caller, Depends(Require(Role.READER))]
Analyst = Annotated[Caller, Depends(Require(Role.ANALYST))]
Admin = Annotated[Caller, Depends(Require(Role.ADMIN))]
Since = Annotated[
    datetime | None,
    Query(description="Only of this time or later: RFC 3339, UTC if it has no zone."),
]
Day = Annotated[datetime, Query(description="A time of the UTC day: RFC 3339 or a date.")]
UserFilter = Annotated[
    str | None,
    Query(min_length=1, max_length=MAX_ID_CHARS, pattern=ID_PATTERN, description="Of this user."),
]
