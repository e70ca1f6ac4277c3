"""Files of attributes: CSV, Parquet and JSON lines."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from liveprofile.attributes.definitions import read_catalogue
from liveprofile.attributes.files import FileDefaults, FileProblem, read_statements
from liveprofile.attributes.statements import Statement, to_event
from liveprofile.errors import InputError
from liveprofile.units import DAY_MS
from tests.support.paths import ROOT

NOW_MS = 1_767_605_700_000
DEFAULTS = FileDefaults(NOW_MS, 365, "crm", "declared", "marketing")
CATALOGUE = read_catalogue(ROOT / "attributes.toml")


def read(
    path: Path, defaults: FileDefaults = DEFAULTS
) -> tuple[list[Statement], list[FileProblem]]:
    problems: list[FileProblem] = []
    found = list(read_statements(path, CATALOGUE, defaults, NOW_MS, problems.append))
    return found, problems


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_csv_rows_become_statements_with_the_defaults(tmp_path: Path) -> None:
    text = (
        "user_id,age,identity_verified,identity_check_score,source,time\n"
        "042,65+,yes,0.5,id,2026-01-01T00:00\n7,,,,,\n"
    )
    file = written(tmp_path, "a.csv", text)
    [first, second], problems = read(file, DEFAULTS._replace(renamed={"age": "age_band"}))
    assert problems == []
    assert first.model_dump() == {
        "user_id": "042",
        "source": "id",
        "kind": "declared",
        "purpose": "marketing",
        "time_ms": 1_767_225_600_000,
        "expires_ms": 1_767_225_600_000 + 365 * DAY_MS,
        "values": {"age_band": "65+", "identity_verified": True, "identity_check_score": 0.5},
    }
    assert (second.user_id, second.source, second.time_ms, second.values) == (
        "7",
        "crm",
        NOW_MS,
        {},
    )


def test_parquet_keeps_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "user_id": pa.array([42], pa.int64()),
            "identity_verified": [False],
            "identity_check_score": [0.25],
            "age_band": pa.array([None], pa.string()),
            "expires": [datetime(2026, 6, 1, tzinfo=UTC)],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    [found], problems = read(tmp_path / "a.parquet")
    assert problems == []
    assert found.user_id == "42"
    assert found.values == {"identity_verified": False, "identity_check_score": 0.25}
    assert found.expires_ms == 1_780_272_000_000


def test_json_lines_may_be_rows_or_events(tmp_path: Path) -> None:
    row = {"user_id": "42", "kids_count": "2"}
    [expected], _ = read(written(tmp_path, "a.jsonl", orjson.dumps(row).decode()))
    text = f"\n{to_event(expected).decode()}\n"
    assert read(written(tmp_path, "b.jsonl", text)) == ([expected], [])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"user_id": ""}, "user_id"),
        ({"user_id": "1", "age_band": "12"}, "age_band: must be one of"),
        ({"user_id": "1", "face": [0.1]}, "face: must be a bool, a number or a text"),
        ({"user_id": "1", "time": "soon"}, "time: must be a time"),
        ({"user_id": "1", "time": NOW_MS + 1}, "in the future"),
        ({"user_id": "1", "expires": NOW_MS}, "not after"),
        ({"user_id": "1", "kind": "guess"}, "kind"),
        ([], "no JSON object"),
    ],
)
def test_invalid_row_is_reported_with_its_number(tmp_path: Path, row: Any, reason: str) -> None:
    lines = [orjson.dumps(each).decode() for each in ({"user_id": "0"}, row)]
    found, [problem] = read(written(tmp_path, "a.jsonl", "\n".join(lines)))
    assert len(found) == 1
    assert problem.row == 2 and reason in problem.reason


@pytest.mark.parametrize(
    ("name", "missing"),
    [("source", "--source"), ("kind", "--kind"), ("valid_days", "--valid-days")],
)
def test_missing_field_names_the_option(tmp_path: Path, name: str, missing: str) -> None:
    file = written(tmp_path, "a.jsonl", '{"user_id": "1"}')
    _, [problem] = read(file, DEFAULTS._replace(**{name: None}))
    assert missing in problem.reason


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", "user_id,age_bnd\n1,2\n", "unknown attribute age_bnd; age_band?"),
        ("a.csv", "age_band\n65+\n", "no column user_id"),
        ("a.csv", "", "a.csv"),
        ("a.parquet", "x", "a.parquet"),
        ("a.xlsx", "x", "must end with"),
    ],
)
def test_unreadable_file_is_refused(tmp_path: Path, name: str, text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason.replace("?", r"\?")):
        read(written(tmp_path, name, text))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        read(tmp_path / "a.csv")
