"""Sequences, the protocol and the ranking measures of models.nextitem."""

from pathlib import Path

import numpy as np
import pytest

from liveprofile.errors import InputError
from models.nextitem import data as sequences


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "sequences.txt"
    file.write_text(text)
    return file


@pytest.fixture
def three(tmp_path: Path) -> sequences.Sequences:
    return sequences.read_s3rec(written(tmp_path, "u1 a b c d\nu2 b\n\nu3 c a b\n"))


def test_the_last_is_the_test_and_the_one_before_it_validation(three) -> None:
    def named(codes) -> list[str]:
        return [three.items[code] for code in codes]

    assert [named(history) for history in sequences.training(three)] == [["a", "b"]]
    validation, test = (sequences.held_out(three, part) for part in ("validation", "test"))
    assert named(validation.target_B) == ["c", "a"]
    assert [named(history) for history in validation.histories] == [["a", "b"], ["c"]]
    assert named(test.target_B) == ["d", "b"]
    assert [named(history) for history in test.histories] == [["a", "b", "c"], ["c", "a"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u1 a b\nu2\n", "line 2: a user without items"),
        ("u1 a b\nu1 c\n", "line 2: user u1 comes twice"),
        ("\n", "no users"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sequences.read_s3rec(written(tmp_path, text))


def test_ranks_leave_out_what_the_user_has_had() -> None:
    part = sequences.Part([np.array([0]), np.array([2, 1]), np.array([3])], np.array([2, 3, 3]))
    scores = np.array([[9.0, 1, 5, 5], [1, 9, 8, 7], [1, 2, 3, 4]])

    found = sequences.ranks(part, lambda histories: scores[: len(histories)].copy())
    # Behind the one that ties; before all others that are left; had already, so never found.
    assert found.tolist() == [1, 0, 4]


def test_measures_are_those_of_the_protocol() -> None:
    found = sequences.measure(np.array([0, 4, 9, 10]))
    assert found.hr_at_5 == 0.5 and found.hr_at_10 == 0.75
    assert found.ndcg_at_5 == pytest.approx((1 + 1 / np.log2(6)) / 4)
    assert found.ndcg_at_10 == pytest.approx((1 + 1 / np.log2(6) + 1 / np.log2(11)) / 4)
