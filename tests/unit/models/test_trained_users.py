"""Which users a model was trained on: no member is missed, and few others are found."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from liveprofile.errors import InputError
from liveprofile.privacy.places import Kept, retention, unlimited
from liveprofile.resources import ROOT
from liveprofile.settings import Settings, load
from liveprofile.units import DAY_MS, HOUR_MS
from models.trained_users import (
    FILE,
    TrainedUsers,
    erase_rows,
    find_checkpoints,
    read,
    user_key,
    write,
)

WEIGHTS = "model.safetensors"
USERS = [f"user-{number}" for number in range(2_000)]


def keys(users: list[str]) -> list[bytes]:
    return [user_key(user) for user in users]


def checkpoint(folder: Path, trained: TrainedUsers | None) -> Path:
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(b"weights of " + folder.name.encode())
    (folder / "card.json").write_text(json.dumps({"version": folder.name}))
    if trained is not None:
        write(folder, WEIGHTS, trained)
    return folder


def test_no_user_of_the_training_is_missed() -> None:
    trained = TrainedUsers.of_training(keys(USERS), "rows")
    assert all(user in trained for user in USERS)
    assert not any(f"other-{number}" in trained for number in range(10_000))
    assert len(trained.filters[0].bits) / len(USERS) == pytest.approx(28.9, abs=0.1)


def test_users_of_teachers_are_users_of_the_model() -> None:
    teacher = TrainedUsers.of_training(keys(["old"]), "a")
    model = TrainedUsers.of_training(keys(["new", "newer"]), "b", teacher)
    assert "old" in model and "new" in model and "else" not in model
    assert model.users == 2


def test_file_holds_no_id_and_reads_as_written(tmp_path: Path) -> None:
    trained = TrainedUsers.of_training(keys([*USERS, "\ud800 lone"]), "rows")
    folder = checkpoint(tmp_path / "a", trained)
    stored = read(folder)
    assert stored is not None
    assert all(user in stored for user in [*USERS, "\ud800 lone"]) and "x" not in stored
    assert "user-" not in (folder / FILE).read_text()
    assert read(checkpoint(tmp_path / "b", None)) is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda content: content.update(format=9), "format 9"),
        (lambda content: content.pop("filters"), "filters"),
        (lambda content: content["filters"][0].update(bits="AA=="), "fewer bits"),
        (lambda content: content["of"].update({WEIGHTS: "0"}), "other weights"),
    ],
)
def test_damaged_file_is_refused(tmp_path: Path, change, problem: str) -> None:
    folder = checkpoint(tmp_path / "a", TrainedUsers.of_training(keys(USERS), "rows"))
    content = json.loads((folder / FILE).read_bytes())
    change(content)
    (folder / FILE).write_text(json.dumps(content))
    with pytest.raises(InputError, match=problem):
        read(folder)


def test_checkpoints_are_listed_with_their_erased_users(tmp_path: Path) -> None:
    checkpoint(tmp_path / "clean", TrainedUsers.of_training(keys(["a", "b"]), "rows"))
    checkpoint(tmp_path / "deep" / "erased", TrainedUsers.of_training(keys(["b", "c"]), "rows"))
    checkpoint(tmp_path / "unknown", None)
    found = {each.version: each for each in find_checkpoints(tmp_path, ["c", "d"])}
    assert found["clean"].is_clean and not found["clean"].erased
    assert found["erased"].erased == ["c"] and not found["erased"].is_clean
    assert found["unknown"].trained is None and not found["unknown"].is_clean
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no model checkpoint"):
        list(find_checkpoints(tmp_path / "empty", []))
    with pytest.raises(InputError, match="no folder"):
        list(find_checkpoints(tmp_path / "none", []))


def test_shipped_models_know_that_no_user_of_a_shop_trained_them() -> None:
    found = list(find_checkpoints(ROOT / "models" / "checkpoints", ["c"]))
    assert found
    assert all(each.is_clean for each in found)


def write_rows(file: Path, *users: str, group: int = 2) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"user_id": list(users), "number": list(range(len(users)))})
    pq.write_table(table, file, row_group_size=group)


def test_rows_of_erased_users_leave_and_others_stay(tmp_path: Path) -> None:
    mixed = tmp_path / "month=2026-01" / "a.parquet"
    others, only = tmp_path / "month=2026-02" / "b.parquet", tmp_path / "c.parquet"
    write_rows(mixed, "gone", "kept", "gone", "also", "kept")
    write_rows(others, "kept", "also")
    write_rows(only, "gone", "gone")
    untouched = others.read_bytes()
    found = {each.file: (each.kept, each.erased) for each in erase_rows(tmp_path, {"gone", "x"})}
    assert found == {mixed: (3, 2), others: (2, 0), only: (0, 2)}
    assert pq.read_table(mixed).select(["user_id", "number"]).to_pylist() == [
        {"user_id": "kept", "number": 1},
        {"user_id": "also", "number": 3},
        {"user_id": "kept", "number": 4},
    ]
    assert others.read_bytes() == untouched and not only.exists()
    assert [each.erased for each in erase_rows(tmp_path, {"gone"})] == [0, 0]
    assert ds.dataset(tmp_path).count_rows() == 5


def test_a_killed_run_is_repeated(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    write_rows(file, "gone", "kept")
    (tmp_path / "a.parquet.without-erased").write_bytes(b"half")
    [found] = erase_rows(tmp_path, {"gone"})
    assert (found.kept, found.erased) == (1, 1)
    assert [each.name for each in tmp_path.iterdir()] == ["a.parquet"]


def kept(settings: Settings) -> dict[str, Kept]:
    return {each.place: each for each in retention(settings)}


def test_only_topics_without_users_have_no_limit() -> None:
    assert unlimited(load()) == []
    endless = {each.place for each in retention(load()) if each.limit_ms is None}
    assert endless == {"risk-rules", "segment-definitions", "user-models"}
    forever = load(topics={"retention_ms": -1, "labels_retention_ms": -1})
    names = {each.place for each in unlimited(forever)}
    assert {"behavior-events", "behavior-events-late", "risk-feedback"} <= names


def test_limits_follow_the_settings() -> None:
    found = kept(
        load(
            cassandra={"profile_ttl_s": 86_400},
            scoring={"score_ttl_s": 3_600},
            state={"user_ttl_ms": 2 * DAY_MS},
            topics={"retention_ms": 5_000},
        )
    )
    expected = {
        "user_profile": DAY_MS,
        "user_segment": 2 * DAY_MS,
        "risk_score_hours": 2 * HOUR_MS,
        "user_attribute": 3_690 * DAY_MS,
        "risk_snooze": 365 * DAY_MS,
        "behavior-events": 5_000,
        "with_device_id": 2 * DAY_MS,
        "profile_input": 2 * DAY_MS,
        "counted": load().window.count_ttl_ms,
    }
    assert {place: found[place].limit_ms for place in expected} == expected


WRITERS = ("liveprofile", "intake", "udfs", "offline", "services", "serve", "console", "cli")
WRITE = re.compile(r"\bINSERT INTO\s|\bUPDATE [a-z_{}.]+ (?:USING|SET)\b")
# Not about users, and it never grows: when drift was first watched.
ENDLESS = "INSERT INTO {self._table} (scope, start) VALUES (?, ?)"


def test_every_write_of_a_row_has_a_ttl() -> None:
    """Tables write their rows by `Table.insert`, which has one. These are other statements."""
    found = [
        (file.relative_to(ROOT).as_posix(), source[match.start() : match.start() + 250])
        for package in WRITERS
        for file in sorted((ROOT / package).rglob("*.py"))
        for source in [file.read_text("utf-8")]
        if "duckdb" not in source.lower()
        for match in WRITE.finditer(source)
    ]
    assert sum("UPDATE" in text for _, text in found) >= 5
    endless = [
        (file, text)
        for file, text in found
        if not any(part in text for part in ("TTL", "SELECT", ENDLESS))
    ]
    assert endless == []
