"""Parameters and descriptions that routes share."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import unquote

import orjson
from fastapi import Depends, Path, Query, Request
from pydantic import AfterValidator, BeforeValidator

from liveprofile.units import SECOND_MS
from serve.keys import Scope
from serve.problems import MEDIA_TYPE, ApiError
from serve.security import Call, Require
from serve.store.scans import SCAN_S
from serve.store.statements import END_OF_TIME_MS, START_OF_TIME_MS
from services.requests import ID_PATTERN, MAX_ID_CHARS

# In requests of a key: what makes its own connections to Kafka, and what reads the rows of all
# users.
KAFKA_COST, SCAN_COST = 10.0, 50.0
# A request that sends records to Kafka, and one that reads topics and changes them.
SEND_DEADLINE_S, KAFKA_DEADLINE_S = 5.0, 15.0
# A scan that ends at its own limit says so before the deadline of its request.
SCAN_DEADLINE_S = SCAN_S + 5.0

# A character has up to four bytes, each of three characters when encoded.
MAX_ENCODED_CHARS = 12 * MAX_ID_CHARS


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route for the OpenAPI document, with those that every route has."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": "Problem", "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in sorted({*statuses, 400, 401, 403, 413, 422, 429, 503})
    }


UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "Not modified"}}


async def strict_json(request: Request) -> None:
    """A dependency of all routes: FastAPI's parser accepts lone surrogates, which UTF-8 lacks."""
    if b"\\u" in (body := await request.body()):
        try:
            orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ApiError(422, "invalid-request", f"body: {error}") from None


async def known_parameters(request: Request) -> None:
    """A dependency of all routes: a misspelled parameter must not be ignored."""
    if not request.url.query:
        return
    operations = request.app.openapi()["paths"].get(request.scope["route"].path, {})
    parameters = operations.get(request.method.lower(), {}).get("parameters", ())
    known = {each["name"] for each in parameters if each["in"] == "query"}
    if unknown := sorted(set(request.query_params) - known):
        message = f"unknown; known are {', '.join(sorted(known)) or 'none'}"
        raise ApiError(
            422,
            "invalid-request",
            f"query.{unknown[0]}: {message}",
            errors=[{"field": f"query.{name}", "message": message} for name in unknown],
        )


NAME_PATTERN = r"^[^\u0000-\u0020]+$"  # of rules, flags and segments


def decoded_id(name: str, text: str) -> str:
    """An id of the path, as routes match the encoded path. Raises ApiError 422."""
    try:
        value = unquote(text, errors="strict")
    except UnicodeDecodeError:
        value = ""
    # The audit trail writes `user rule`: a space in the rule would name another user.
    pattern = ID_PATTERN if name == "user_id" else NAME_PATTERN
    if len(value) > MAX_ID_CHARS or not re.fullmatch(pattern, value):
        kinds = "control characters" if name == "user_id" else "spaces and control characters"
        detail = f"{name}: 1 to {MAX_ID_CHARS} characters in UTF-8 without {kinds}"
        raise ApiError(422, "invalid-request", detail)
    return value


def _id_of(name: str, description: str) -> Any:
    """A dependency: the decoded id. The document describes it, FastAPI checks the encoded one."""
    pattern = ID_PATTERN if name == "user_id" else NAME_PATTERN
    path = Path(
        alias=name,
        max_length=MAX_ENCODED_CHARS,
        description=description,
        json_schema_extra={"minLength": 1, "maxLength": MAX_ID_CHARS, "pattern": pattern},
    )

    async def decoded(request: Request, encoded: str = path) -> str:
        value = decoded_id(name, encoded)
        setattr(request.state, name, value)  # the log has the user's
        return value

    return Depends(decoded)


def _parse_time(text: Any) -> Any:
    # Pydantic would also take numbers, as seconds or milliseconds depending on their size.
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise ValueError("not a time in RFC 3339, such as 2017-11-26T01:00:00Z") from None


def to_ms(time: datetime) -> int:
    """A time without a zone is UTC. Times outside those that are stored become the nearest one."""
    time_ms = int(time.replace(tzinfo=time.tzinfo or UTC).timestamp() * SECOND_MS)
    return min(max(time_ms, START_OF_TIME_MS), END_OF_TIME_MS)


UserId = Annotated[str, _id_of("user_id", "User id, percent-encoded.")]
FlagId = Annotated[str, _id_of("flag_id", "Id of the flag and its alert.")]
SegmentId = Annotated[str, _id_of("segment", "Segment id.")]
RuleId = Annotated[str, _id_of("rule_id", "Rule id, or * for all rules.")]

ProfileReader = Annotated[Call, Depends(Require(Scope.PROFILES))]
RiskReader = Annotated[Call, Depends(Require(Scope.RISK))]
SegmentReader = Annotated[Call, Depends(Require(Scope.SEGMENTS))]
# A time in ms. Those outside of what is stored become the nearest one.
TimeMs = Annotated[datetime, BeforeValidator(_parse_time), AfterValidator(to_ms)]
Since = Annotated[
    TimeMs | None,
    Query(description="Only of this time or later: RFC 3339, UTC if it has no zone."),
]
Day = Annotated[TimeMs, Query(description="A time of the UTC day: RFC 3339 or a date.")]
UserFilter = Annotated[
    str | None,
    Query(min_length=1, max_length=MAX_ID_CHARS, pattern=ID_PATTERN, description="Of this user."),
]
