"""Readers of published files, compared with sequences written by hand."""

from pathlib import Path

import pytest

from lab.next_item.data import SequenceDataset
from lab.next_item.readers import READERS
from liveprofile.errors import InputError


def names(data: SequenceDataset) -> list[list[str]]:
    """The items of each user."""
    return [[data.items[code] for code in history] for history in data.histories(0)]


def test_movielens_ratings_are_ordered_by_time_and_ties_by_the_file(tmp_path: Path) -> None:
    file = tmp_path / "ratings.csv"
    file.write_text(
        "userId,movieId,rating,timestamp\n"
        "1,2,3.5,1112486027\n"
        "1,29,3.5,1112484676\n"
        "1,32,0.5,1112484676\n"
        "1,7,4.0,1112484600\n"
        "20,2,4.0,974820889\n"
        "3,32,4.0,944919407\n"
        "3,29,5.0,944919406\n"
    )
    assert names(READERS["movielens"](file)) == [["7", "29", "32", "2"], ["2"], ["29", "32"]]


def test_pairs_keep_the_order_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "ml-20m.txt"
    file.write_text("1 5\n1 2\n1 5\n2 9\n2 2\n")
    assert names(READERS["pairs"](file)) == [["5", "2", "5"], ["9", "2"]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("movielens", "userId,movieId,rating\n1,2,3.5\n", "ratings: Column 'timestamp' in"),
        ("movielens", "userId,movieId,rating,timestamp\n1,2,3.5,soon\n", "invalid value 'soon'"),
        ("movielens", "userId,movieId,rating,timestamp\n1,2,3.5,\n", "1 lines have no timestamp"),
        ("movielens", "userId,movieId,rating,timestamp\n", "the file has no users"),
        ("pairs", "1 2\n1\n", "Expected 2 columns, got 1"),
        ("pairs", None, "No such file"),
    ],
)
def test_a_file_of_another_form_is_refused_in_one_line(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    file = tmp_path / "ratings"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError) as raised:
        READERS[name](file)
    assert message in str(raised.value) and "\n" not in str(raised.value)
