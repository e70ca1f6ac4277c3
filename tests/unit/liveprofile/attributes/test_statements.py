"""Late, repeated, contradicting and expired statements: the result is that of the contract."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from liveprofile.attributes.definitions import AttributeDefinition, Catalogue
from liveprofile.attributes.statements import (
    SEGMENT_PURPOSES,
    Statement,
    new_statement,
    resolve,
    to_event,
)
from liveprofile.attributes.table import (
    AttributeTable,
    Withdrawal,
    parse_records,
)
from liveprofile.kafka.records import Record
from liveprofile.settings import load
from liveprofile.units import DAY_MS
from tests.support.memory.cassandra import MemoryCassandra

START_MS = 1_700_000_000_000
CATALOGUE = Catalogue(
    version="1",
    attributes=tuple(
        AttributeDefinition(id=name, type="number", description="x") for name in ("a", "b", "c")
    ),
)


def statement(source: str = "crm", day: float = 0, days: float = 10, **changes: Any) -> Statement:
    time_ms = START_MS + round(day * DAY_MS)
    fields: dict[str, Any] = {
        "user_id": "u",
        "source": source,
        "kind": "declared",
        "purpose": "any",
        "time_ms": time_ms,
        "expires_ms": time_ms + round(days * DAY_MS),
        "values": {"a": 1},
    }
    return new_statement(**(fields | changes))


def record(value: bytes | None, key: bytes, day: float = 1_000, offset: int = 0) -> Record:
    return Record("t", 0, offset, START_MS + round(day * DAY_MS), key, value, {})


def stored(statements: list[Statement]) -> AttributeTable:
    table = AttributeTable(MemoryCassandra(), load().cassandra)
    parsed = parse_records([record(to_event(one), one.key) for one in statements], CATALOGUE, 0)
    assert not parsed.rejected
    table.write(parsed.changes)
    return table


def values(table: AttributeTable, at_day: float = 1, user: str = "u") -> dict[str, tuple[Any, str]]:
    at_ms = START_MS + round(at_day * DAY_MS)
    found = resolve(table.read([user]).get(user, ()), at_ms, SEGMENT_PURPOSES)
    return {name: (one.value, one.source) for name, one in found.items()}


def test_expired_statement_does_not_bring_back_an_older_one() -> None:
    older, newer = statement(day=0, days=100), statement(day=1, days=1, values={"a": 2})
    for sent in ([older, newer], [newer, older]):
        assert values(stored(sent), at_day=1.5) == {"a": (2, "crm")}
        assert values(stored(sent), at_day=2) == {}


def test_contradiction_of_one_source_and_time_does_not_depend_on_the_order() -> None:
    sent = [statement(values={"a": value, name: 1}) for value, name in ((3, "b"), (2, "c"))]
    one, other = (values(stored(each)) for each in (sent, sent[::-1]))
    assert one == other
    assert one["a"][0] == 3 and "b" in one and "c" not in one, "contents must not mix"


def test_tombstone_withdraws_what_its_source_has_said_before() -> None:
    table = stored([statement(), statement("bureau", values={"b": 1})])
    parsed = parse_records([record(None, b"crm/u", day=0.2)], CATALOGUE, 0)
    assert parsed.changes == [Withdrawal("u", "crm", START_MS + round(0.2 * DAY_MS))]
    table.write(parsed.changes)
    assert values(table) == {"b": (1, "bureau")}
    table.write([statement(day=0.1), statement(day=0.5, values={"c": 1})])
    assert values(table) == {"b": (1, "bureau"), "c": (1, "crm")}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"source": "CRM"}, "source"),
        ({"time": "2026-01-05"}, "time"),
        ({"subject": "v"}, "subject"),
        ({"data.kind": "guessed"}, "kind"),
        ({"data.expires": "2023-11-14T22:13:20Z"}, "not after"),
        ({"data.expires": "2033-12-14T22:13:20Z"}, "3660 days"),
        ({"data.attributes": [1]}, "must be an object"),
        ({"data.attributes": {"a": [1]}}, "a bool, a number or a text"),
        ({"data.attributes": {"a": "x" * 20_000}}, "bytes"),
        ({"data.attributes": {"a": True}}, "must be a number"),
        ({"data.attributes": {"d": 1}}, "unknown attribute d"),
        ({"data.attributes": {f"a{n}": 1 for n in range(65)}}, "values"),
        ({"data.face": "x"}, "unknown key face"),
    ],
)
def test_invalid_record_is_rejected_with_a_reason(change: dict[str, Any], reason: str) -> None:
    event = orjson.loads(to_event(statement()))
    for path, value in change.items():
        target = event["data"] if path.startswith("data.") else event
        target[path.removeprefix("data.")] = value
    records = [record(orjson.dumps(event), b"crm/u", offset=3)]
    parsed = parse_records([*records, record(to_event(statement()), b"crm/u")], CATALOGUE, 0)
    assert len(parsed.changes) == 1
    [rejected] = parsed.rejected
    assert rejected.offset == 3 and reason in rejected.reason


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [
        (b"{", b"crm/u", "no JSON"),
        (b"7", b"crm/u", "no JSON object"),
        (b"{}", b"\xff", "UTF-8"),
        (None, b"u", "source/user_id"),
        (to_event(statement()), b"u", "source/user_id"),
        (to_event(statement(day=2_000)), b"crm/u", "in the future"),
    ],
)
def test_invalid_envelope_is_rejected(value: bytes | None, key: bytes, reason: str) -> None:
    [rejected] = parse_records([record(value, key)], CATALOGUE, 0).rejected
    assert reason in rejected.reason
