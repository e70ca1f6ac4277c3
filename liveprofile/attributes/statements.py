"""Statements about users: what one source says of one user, as CloudEvents of user-attributes.

A statement is all that its source says of the user: it replaces the source's earlier one, and what
it lacks is withdrawn. schemas/user-attributes.schema.json describes the event.

Of one source, the statement with the newest time counts, also after it has expired: an older one
does not come back. Among sources, the newest time wins for each attribute, then the kind (verified
before declared before third-party), then the source's name. Two statements of one source and time
contradict each other: the kind decides, then the content. So the result depends on the statements
alone, not on the order of their arrival.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from liveprofile.rules.conditions import AttributeValue
from liveprofile.units import DAY_MS
from liveprofile.wire.user_records import RecordKind, to_rfc3339

StatementKind = Literal["third_party", "declared", "verified"]
KINDS: tuple[StatementKind, ...] = get_args(StatementKind)  # the later one wins a tie
Purpose = Literal["any", "marketing", "risk"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
# Which purposes allow which use.
SEGMENT_PURPOSES: frozenset[Purpose] = frozenset({"any", "marketing"})
RULE_PURPOSES: frozenset[Purpose] = frozenset({"any", "risk"})

EVENT_TYPE = "liveprofile.user.attributes"
SCHEMA = "https://liveprofile.example/schemas/user-attributes.schema.json#/$defs/data"
SOURCE_PATTERN = r"^[a-z][a-z0-9_.-]{0,63}$"
MAX_ATTRIBUTES = 64
MAX_RECORD_BYTES = 16_384
MAX_USER_ID_CHARS = 256
MAX_VALIDITY_MS = 3_660 * DAY_MS
# Times that Cassandra, Python and microseconds in 64 bits can all represent: 1970 to 2200.
_LAST_MS = 7_258_118_400_000
_EPOCH, _MILLISECOND = datetime.fromtimestamp(0, UTC), timedelta(milliseconds=1)
_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


class StatementError(ValueError):
    """A statement is invalid: the reason, without the user's id or values."""


class Statement(BaseModel):
    """What one source says of one user."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user_id: str = Field(min_length=1, max_length=MAX_USER_ID_CHARS)
    source: str = Field(pattern=SOURCE_PATTERN)
    kind: StatementKind
    purpose: Purpose
    time_ms: int = Field(ge=0, le=_LAST_MS)  # when it became true, or was found
    expires_ms: int = Field(ge=0, le=_LAST_MS)
    values: Mapping[str, AttributeValue] = Field(max_length=MAX_ATTRIBUTES)

    @cached_property
    def content(self) -> bytes:
        """What it says, in one form for equal statements."""
        said = [self.kind, self.purpose, self.expires_ms, dict(self.values)]
        return orjson.dumps(said, option=orjson.OPT_SORT_KEYS)

    @property
    def digest(self) -> bytes:
        """8 bytes of BLAKE2b (RFC 7693) of the content."""
        return hashlib.blake2b(self.content, digest_size=8).digest()

    @property
    def key(self) -> bytes:
        """The record's key: compaction keeps the last statement of each source and user."""
        return f"{self.source}/{self.user_id}".encode()

    @property
    def event_id(self) -> str:
        """Deterministic: the same for every copy."""
        text = b"\0".join((self.key, str(self.time_ms).encode(), self.content))
        return hashlib.blake2b(text, digest_size=16).hexdigest()


def new_statement(**fields: Any) -> Statement:
    """Validates the fields. Raises StatementError with the first fault."""
    try:
        found = Statement(**fields)
    except ValidationError as error:
        detail = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in detail["loc"][:2])
        raise StatementError(f"{place}: {detail['msg']}") from None
    if not found.user_id.isprintable():
        raise StatementError("user_id: has control characters")
    if found.expires_ms <= found.time_ms:
        raise StatementError("expires: is not after the time of the statement")
    if found.expires_ms - found.time_ms > MAX_VALIDITY_MS:
        raise StatementError(
            f"expires: is more than {MAX_VALIDITY_MS // DAY_MS} days after the statement's time"
        )
    return found


def to_event(statement: Statement) -> bytes:
    """The statement as CloudEvents 1.0 structured JSON."""
    data = {
        "user_id": statement.user_id,
        "kind": statement.kind,
        "purpose": statement.purpose,
        "expires": to_rfc3339(statement.expires_ms),
        "attributes": dict(statement.values),
    }
    kind, time = RecordKind(statement.source, EVENT_TYPE, SCHEMA), to_rfc3339(statement.time_ms)
    return kind.value(statement.user_id, time, data, statement.event_id)


def parse_event(value: bytes) -> Statement:
    """Reads an event. Raises StatementError.

    The attributes' names and types are not checked (definitions.Catalogue.value_problems).
    """
    if len(value) > MAX_RECORD_BYTES:
        raise StatementError(f"has {len(value)} bytes, more than {MAX_RECORD_BYTES}")
    try:
        event = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise StatementError(f"is no JSON: {error}") from None
    if not isinstance(event, dict):
        raise StatementError("is no JSON object")
    for name, expected in (("specversion", "1.0"), ("type", EVENT_TYPE)):
        if event.get(name) != expected:
            raise StatementError(f"{name}: must be {expected}")
    if not isinstance(event.get("id"), str) or not event["id"]:
        raise StatementError("id: must be a text")
    data = event.get("data")
    if not isinstance(data, dict):
        raise StatementError("data: must be an object")
    names = {"user_id", "kind", "purpose", "expires", "attributes"}
    if missing := names - data.keys():
        raise StatementError(f"data.{min(missing)}: is missing")
    if extra := data.keys() - names:
        raise StatementError(f"data: unknown key {min(extra)}")
    if not isinstance(data["attributes"], dict):
        raise StatementError("data.attributes: must be an object")
    for name, stated in data["attributes"].items():
        if type(stated) not in (bool, int, float, str):
            raise StatementError(f"{name[:64]}: must be a bool, a number or a text")
    found = new_statement(
        user_id=data["user_id"],
        source=event.get("source"),
        kind=data["kind"],
        purpose=data["purpose"],
        time_ms=_parse_time("time", event.get("time")),
        expires_ms=_parse_time("data.expires", data["expires"]),
        values=data["attributes"],
    )
    if event.get("subject") != found.user_id:
        raise StatementError("subject: must be data.user_id")
    return found


def _parse_time(name: str, text: Any) -> int:
    """RFC 3339 with a zone, as epoch milliseconds; finer digits are cut off."""
    if isinstance(text, str) and _RFC3339.fullmatch(text):
        try:
            return (datetime.fromisoformat(text.upper()) - _EPOCH) // _MILLISECOND
        except (ValueError, OverflowError):
            pass
    raise StatementError(f"{name}: must be a time of RFC 3339, such as 2026-01-05T09:35:00Z")


class Attribute(NamedTuple):
    """The value of one attribute of a user, and who says so."""

    value: AttributeValue
    source: str
    kind: StatementKind
    purpose: Purpose
    time_ms: int
    expires_ms: int


def latest_by_source(statements: Iterable[Statement]) -> list[Statement]:
    """The statement of each source that counts, expired ones included. All are of one user."""
    latest: dict[str, Statement] = {}
    for statement in statements:
        known = latest.get(statement.source)
        if known is None or _age_order(statement) > _age_order(known):
            latest[statement.source] = statement
    return [latest[source] for source in sorted(latest)]


def resolve(
    statements: Iterable[Statement], at_ms: int, purposes: Collection[Purpose] = PURPOSES
) -> dict[str, Attribute]:
    """A user's attributes at a time, by name. statements: of one user; purposes: of the use."""
    valid = [
        statement
        for statement in latest_by_source(statements)
        if statement.expires_ms > at_ms and statement.purpose in purposes
    ]
    valid.sort(key=lambda one: (one.time_ms, KINDS.index(one.kind), one.source))
    found: dict[str, Attribute] = {}
    for one in valid:  # the last one wins
        for name, value in one.values.items():
            found[name] = Attribute(
                value, one.source, one.kind, one.purpose, one.time_ms, one.expires_ms
            )
    return dict(sorted(found.items()))


def attribute_values(
    statements: Sequence[Statement], at_ms: int, purposes: Collection[Purpose]
) -> dict[str, AttributeValue]:
    """The values of `resolve`."""
    if not statements:
        return {}
    return {name: one.value for name, one in resolve(statements, at_ms, purposes).items()}


def _age_order(statement: Statement) -> tuple[int, int, bytes]:
    return statement.time_ms, KINDS.index(statement.kind), statement.content
