"""Which users a model was trained on: no member is missed, and few others are found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from liveprofile.errors import InputError
from liveprofile.privacy.trained_users import (
    FILE,
    TrainedUsers,
    UserFilter,
    find_checkpoints,
    read,
    user_key,
    write,
)
from liveprofile.resources import ROOT

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


def test_false_positives_are_as_many_as_stated() -> None:
    loose = UserFilter.of(keys(USERS), b"salt", rate=0.01)
    found = sum(f"other-{number}" in loose for number in range(20_000))
    assert 100 < found < 260  # the rate of 7 hashes, 0.008


def test_filters_of_other_rows_have_other_bits() -> None:
    first, again, other = (TrainedUsers.of_training(keys(USERS), rows) for rows in "aab")
    assert (first.filters[0].bits == again.filters[0].bits).all()
    assert (first.filters[0].bits != other.filters[0].bits).any()


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


def test_a_training_without_users_finds_nobody(tmp_path: Path) -> None:
    for trained in (TrainedUsers(()), TrainedUsers.of_training([], "rows")):
        stored = read(checkpoint(tmp_path / str(len(trained.filters)), trained))
        assert stored is not None and "42" not in stored and stored.users == 0


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
