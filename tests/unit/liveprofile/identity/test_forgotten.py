"""Erasing one id of a person erases all of them, and what linked them."""

from __future__ import annotations

from liveprofile.identity.book import IdentityBook, Merge
from liveprofile.identity.forgotten import (
    former_ids,
    missing_erasures,
    of_persons,
    without_users,
)


def book() -> IdentityBook:
    """a and b are c; d was c for a while."""
    result = IdentityBook()
    result.put("a", [Merge("b", 10)])
    result.put("b", [Merge("c", 20)])
    result.put("d", [Merge("c", 10, 30)])
    return result


def test_an_id_stands_for_all_ids_of_the_person_now() -> None:
    assert of_persons(book(), ["z", "b", "a"]) == ["z", "b", "a", "c"]
    assert of_persons(book(), ["d"]) == ["d"]


def test_ids_that_were_split_are_named() -> None:
    assert former_ids(book(), ["a"]) == ["d"]
    assert former_ids(book(), ["d"]) == ["a", "b", "c"]
    assert former_ids(book(), ["z"]) == []


def test_an_erasure_of_one_id_is_due_for_the_others() -> None:
    assert missing_erasures(book(), {"a": 50}, ["a"]) == {"b": 50, "c": 50}
    assert missing_erasures(book(), {"a": 50, "c": 60}, ["a", "c"]) == {"a": 60, "b": 60}
    assert missing_erasures(book(), {"a": 50, "b": 50, "c": 50, "d": 1}, "abcd") == {}


def test_records_that_name_an_erased_user_end() -> None:
    assert without_users(book(), {"a", "b", "c"}) == {"a": (), "b": (), "d": ()}
    both = book()
    both.put("d", [Merge("c", 10, 30), Merge("e", 40)])
    assert without_users(both, {"a", "b", "c"})["d"] == (Merge("e", 40),)
    assert without_users(book(), {"z"}) == {}
