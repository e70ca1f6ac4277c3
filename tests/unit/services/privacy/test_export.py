"""The file of an export: values as JSON, records of a user, nothing left behind after a failure."""

import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cassandra.util import Date, SortedSet

from liveprofile.kafka.records import Record
from liveprofile.privacy.places import TABLES
from liveprofile.rows import TABLES as ALL
from services.privacy.export import as_json, private_file, user_records


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2017, 11, 26, 1, 5, 0, 7_000), "2017-11-26T01:05:00.007Z"),
        (datetime(2017, 11, 26, 1, 5, tzinfo=UTC), "2017-11-26T01:05:00.000Z"),
        (Date("2017-11-26"), "2017-11-26"),
        (b"\x00\xff", "00ff"),
        (SortedSet(["b", "a"]), ["a", "b"]),
        ({"flag": datetime(2017, 11, 26)}, {"flag": "2017-11-26T00:00:00.000Z"}),
        ((0.5, 1.5), [0.5, 1.5]),
        ('{"events": 3}', {"events": 3}),
        ("[not JSON", "[not JSON"),
        (None, None),
        (True, True),
    ],
)
def test_values_become_json(value: Any, expected: Any) -> None:
    assert as_json(value) == expected


def test_file_is_private_and_a_failed_export_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "42.json"
    with private_file(path) as file:
        file.write(b"{}")
    assert path.read_bytes() == b"{}" and stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    with pytest.raises(RuntimeError), private_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def record(key: bytes | None, value: bytes | None) -> Record:
    return Record("events", 0, 7, 1_511_658_300_000, key, value, {})


def test_records_of_a_user_are_found_by_key_field_and_text() -> None:
    records = [
        record(b"42", None),
        record(None, b'{"user_id": 42}'),
        record(None, b'{"subject": "42"}'),
        record(None, b'{"user_id": "42"'),  # broken
        record(b"7", b'{"user_id": "7", "item_id": "42"}'),
        record(None, b'{"user_id": "421"}'),
    ]
    found = list(user_records(records, ["42"]))
    assert [each["value"] for each in found] == [
        "",
        {"user_id": 42},
        {"subject": "42"},
        '{"user_id": "42"',
    ]
    assert found[0]["record_time"] == "2017-11-26T01:05:00.000Z"


# Columns that identify a user, or a flag and so its user.
IDENTIFYING = {"user_id", "subject", "flag_id", "alert_id", "target", "flags", "alerts"}


def test_no_table_that_identifies_users_is_left_out() -> None:
    identifying = {name for name, each in ALL.items() if IDENTIFYING & set(each.columns)}
    assert identifying == TABLES.keys()
