"""Attributes: definitions and files; late, repeated, contradicting and expired statements."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest

from intake.attribute_files import FileFields, FileProblem, read_statements
from liveprofile.attributes.catalogue import (
    AttributeDefinition,
    AttributesError,
    Catalogue,
    read_catalogue,
)
from liveprofile.attributes.statements import (
    SEGMENT_PURPOSES,
    Statement,
    new_statement,
    parse_event,
    resolve,
    to_event,
)
from liveprofile.attributes.table import AttributeTable, Withdrawal, parse_records
from liveprofile.errors import InputError
from liveprofile.kafka.records import Record
from liveprofile.rules.conditions import parse_condition
from liveprofile.settings import load
from liveprofile.units import DAY_MS
from tests.support.memory.cassandra import MemoryCassandra
from tests.support.paths import ROOT
from tests.support.rows.statements import stated

SCHEMA = json.loads((ROOT / "schemas/user-attributes.schema.json").read_text("utf-8"))
DEFINITIONS = """
version = "1"

[[attributes]]
id = "vip"
type = "flag"
description = "A valued customer"

[[attributes]]
id = "score"
type = "number"
min = 0
max = 1
description = "A score"

[[attributes]]
id = "band"
type = "enum"
values = ["low", "high"]
description = "A band"

[[attributes]]
id = "city"
type = "text"
max_chars = 10
description = "A city"
"""


def computed(definition: str) -> tuple[str, str]:
    """The change that makes the first attribute a computed one."""
    return 'type = "flag"', f'type = "number"\ncomputed = {{ {definition} }}'


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return read(tmp_path, DEFINITIONS)


def read(folder: Path, text: str) -> Catalogue:
    file = folder / "attributes.toml"
    file.write_text(text, encoding="utf-8")
    return read_catalogue(load(), file)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"vip": True, "score": 0.5, "band": "low", "city": "Łódź"}, None),
        ({"score": 1}, None),
        ({"vip": 1}, "vip: must be true or false"),
        ({"score": float("nan")}, "score: must be a number"),
        ({"score": 2}, "score: must be from 0 to 1"),
        ({"band": "mid"}, "band: must be one of low, high"),
        ({"city": "x" * 11}, "city: must have 1 to 10 characters, not 11"),
        ({"city": "a\n"}, "city: must not have control characters"),
        ({"scor": 1}, "unknown attribute scor; score?"),
    ],
)
def test_value_is_checked_by_its_type(
    catalogue: Catalogue, values: dict[str, Any], problem: str | None
) -> None:
    assert catalogue.value_problems(values) == ([problem] if problem else [])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("type = \"flag\"", "type = \"vector\""), "vip: type: Input should be 'flag'"),
        (("max_chars = 10", "max_chars = 1000"), "less than or equal to 100"),
        (('values = ["low", "high"]', ""), "type enum needs values"),
        (("max = 1", "max = -1"), "min 0 is above max -1"),
        (("max_chars = 10", "values = []"), "type text has no values"),
        (('id = "band"', 'id = "vip"'), "another attribute has the same id"),
        (('id = "band"', 'id = "Band"'), "String should match pattern"),
        (('version = "1"', "owner = 1"), "Extra inputs are not permitted"),
        (computed('of = "chat", aggregate = "count"'), "chat is no event type"),
        (computed('aggregate = "sum"'), "aggregate sum needs a value"),
        (computed('aggregate = "count", value = "amount"'), "aggregate count has no value"),
        (computed('aggregate = "count", within = "2 weeks"'), "must be such as 2 min, 2 h, 2 d"),
        (computed('aggregate = "count", within = "401 d"'), "must be from 5 min to 400 d"),
        (computed('aggregate = "count", where = "amuont > 1"'), "where, column 1: unknown name"),
        (computed('aggregate = "sum", value = "amount > 1"'), "value, column 1"),
    ],
)  # fmt: skip
def test_invalid_definition_is_reported(
    tmp_path: Path, change: tuple[str, str], reason: str
) -> None:
    with pytest.raises(AttributesError) as error:
        read(tmp_path, DEFINITIONS.replace(*change))
    assert reason in "\n".join(error.value.lines())


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('attribute("vip") and attribute("score") > 0.5 and attribute("band") == "low"', None),
        ('attribute("vpi")', "unknown attribute vpi; vip?"),
        ('attribute("band") > 1', "attribute band is of type enum, but is used as a number"),
        ('not attribute("score")', "attribute score is of type number, but is used as a condition"),
    ],
)
def test_condition_is_checked_against_the_definitions(
    catalogue: Catalogue, text: str, fault: str | None
) -> None:
    condition = parse_condition(text, {}, {}, {"attribute": "attribute"})
    assert catalogue.condition_faults(condition) == ([fault] if fault else [])


def test_computed_attribute_is_neither_stated_nor_read_by_rules_of_events(tmp_path: Path) -> None:
    change = computed('of = "cart", aggregate = "count", within = "2 h"')
    catalogue = read(tmp_path, DEFINITIONS.replace(*change))
    assert catalogue.value_problems({"vip": 1}) == ["vip: is computed from events"]
    condition = parse_condition('attribute("vip") > 1', {}, {}, {"attribute": "attribute"})
    assert catalogue.condition_faults(condition) == []
    (fault,) = catalogue.condition_faults(condition, "event")
    assert fault == "attribute vip is computed when a window closes: scope window"


def test_sent_event_satisfies_the_schema_and_is_read_as_it_was_sent() -> None:
    statement = new_statement(
        user_id="ü",
        source="id.check",
        kind="verified",
        purpose="risk",
        time_ms=1_700_000_000_123,
        expires_ms=1_700_000_000_124,
        values={"a": True, "b": -1.5, "c": "x" * 100, "d": 7},
    )
    event = to_event(statement)
    jsonschema.validate(json.loads(event), SCHEMA)
    assert parse_event(event) == statement
    assert parse_event(event).digest == statement.digest


NOW_MS = 1_767_605_700_000
FIELDS = FileFields("crm", "declared", "marketing", NOW_MS, 365)
CATALOGUE = read_catalogue(load())


def read_csv(
    folder: Path, text: str, name: str = "a.csv", fields: FileFields = FIELDS
) -> tuple[list[Statement], list[FileProblem]]:
    (folder / name).write_text(text, encoding="utf-8")
    problems: list[FileProblem] = []
    found = read_statements(folder / name, CATALOGUE, fields, NOW_MS, problems.append)
    return list(found), problems


def test_csv_rows_become_statements(tmp_path: Path) -> None:
    text = (
        "user_id,age_band,identity_verified,identity_check_score,time,expires\n"
        "042,65+,yes,0.5,2026-01-01T00:00,\n7,,,,,2026-06-01T00:00:00Z\n"
    )
    [first, second], problems = read_csv(tmp_path, text)
    assert problems == []
    assert first.model_dump() == {
        "user_id": "042",
        "source": "crm",
        "kind": "declared",
        "purpose": "marketing",
        "time_ms": 1_767_225_600_000,
        "expires_ms": 1_767_225_600_000 + 365 * DAY_MS,
        "values": {"age_band": "65+", "identity_verified": True, "identity_check_score": 0.5},
    }
    assert (second.user_id, second.time_ms, second.values) == ("7", NOW_MS, {})
    assert second.expires_ms == 1_780_272_000_000


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",,,,", "user_id"),
        ("1,12,,,", "age_band: must be one of"),
        ("1,,high,,", "identity_check_score: must be a number"),
        ("1,,,soon,", "time: must be a time"),
        ("1,,,2027-01-01,", "in the future"),
        ("1,,,,2020-01-01", "not after"),
        ("1,,,,,extra", "more values than the header"),
        ("1,,,,", "give --valid-days"),
    ],
)
def test_invalid_row_is_reported_with_its_number(tmp_path: Path, row: str, reason: str) -> None:
    header = "user_id,age_band,identity_check_score,time,expires\n0,,,,2026-06-01\n"
    fields = FIELDS._replace(valid_days=None) if "valid-days" in reason else FIELDS
    [_], [problem] = read_csv(tmp_path, f"{header}{row}\n", fields=fields)
    assert problem.row == 2 and reason in problem.reason


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", "user_id,age_bnd\n1,2\n", "unknown attribute age_bnd; age_band?"),
        ("a.csv", "age_band\n65+\n", "no column user_id"),
        ("a.csv", "", "a.csv"),
        ("a.csv", 'user_id\n"1\n', "a.csv"),
        ("a.jsonl", "{}", "must end with"),
    ],
)
def test_unreadable_file_is_refused(tmp_path: Path, name: str, text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason.replace("?", r"\?")):
        read_csv(tmp_path, text, name)


START_MS = 1_700_000_000_000
NUMBERS = Catalogue(
    version="1",
    attributes=tuple(
        AttributeDefinition(id=name, type="number", description="x") for name in ("a", "b", "c")
    ),
)


def statement(
    source: str = "crm", day: float = 0, days: float = 10, values: dict[str, Any] | None = None
) -> Statement:
    said = stated("u", START_MS + round(day * DAY_MS), days, **(values or {"a": 1}))
    return said.model_copy(update={"source": source})


def record(value: bytes | None, key: bytes, day: float = 1_000, offset: int = 0) -> Record:
    return Record("t", 0, offset, START_MS + round(day * DAY_MS), key, value, {})


def stored(statements: list[Statement]) -> AttributeTable:
    table = AttributeTable(MemoryCassandra(), load().cassandra)
    parsed = parse_records([record(to_event(one), one.key) for one in statements], NUMBERS, 0)
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
    parsed = parse_records([record(None, b"crm/u", day=0.2)], NUMBERS, 0)
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
    parsed = parse_records([*records, record(to_event(statement()), b"crm/u")], NUMBERS, 0)
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
    [rejected] = parse_records([record(value, key)], NUMBERS, 0).rejected
    assert reason in rejected.reason
