"""Which ids are one person at a time, against a plain reading of the merges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.identity.merges import (
    END_OF_TIME_MS,
    MAX_IDS,
    MAX_MERGES,
    IdentityTable,
    Merge,
    MergeError,
    merged,
    missing_erasures,
    split,
    without_users,
)

DAY_MS = 86_400_000
IDS = "abcdef"


def identity_of(**merges: list[Merge]) -> IdentityTable:
    table = IdentityTable()
    for alias_id, each in merges.items():
        table.put(alias_id, each)
    return table


def test_an_alias_is_the_user_from_the_merge_to_the_split() -> None:
    table = identity_of(a=[Merge("b", 10, 20), Merge("c", 30)])
    assert [table.resolve("a", at) for at in (9, 10, 19, 20, 29, 30)] == list("abbaac")
    assert table.resolve_rows(["a", "b", "z"], [10, 10, 10]) == ["b", "b", "z"]
    assert table.ids_of("b", 10) == ["a", "b"] and table.ids_of("b", 20) == ["b"]
    assert table.ids_of("a", 30) == table.ids_of("c", 30) == ["a", "c"]
    assert table.ever_merged("b") == ["a", "b", "c"]
    assert "a" in table and "b" in table and "z" not in table and len(table) == 1


def test_two_commands_at_once_that_close_a_circle_give_one_person() -> None:
    table = identity_of(b=[Merge("c", 0)], c=[Merge("b", 0)], a=[Merge("c", 0)])
    assert {table.resolve(each, 5) for each in "abc"} == {"b"}
    assert table.ids_of("a", 5) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        ([Merge("a", 5)], "alias of itself"),
        ([Merge("b", 5), Merge("c", 9)], "without overlap"),
        ([Merge("b", 5, 9), Merge("c", 8)], "without overlap"),
        ([Merge("b", 5, 4)], "cannot end before"),
        ([Merge("b", i, i) for i in range(MAX_MERGES + 1)], "at most"),
    ],
)
def test_merges_that_contradict_each_other_are_refused(merges: list[Merge], message: str) -> None:
    with pytest.raises(MergeError, match=message):
        IdentityTable().put("a", merges)


@pytest.mark.parametrize(
    ("alias_id", "user_id", "message"),
    [("c", "a", "'a' is an alias of 'c'"), ("c", "c", "alias of itself")],
)
def test_merge_into_itself_is_refused(alias_id: str, user_id: str, message: str) -> None:
    table = identity_of(a=[Merge("b", 0)], b=[Merge("c", 0)])
    with pytest.raises(MergeError, match=message):
        merged(table, alias_id, user_id, 50)


def test_a_person_has_a_limited_number_of_ids() -> None:
    table = IdentityTable()
    for number in range(MAX_IDS - 1):
        table.put(f"s{number}", merged(table, f"s{number}", "u", 0))
    with pytest.raises(MergeError, match=f"{MAX_IDS + 1} ids, at most {MAX_IDS}"):
        merged(table, "one more", "u", 0)


def test_a_split_ends_the_last_merge_within_the_limit() -> None:
    table = identity_of(a=[Merge("b", 10)])
    assert split(table, "a", 20, DAY_MS, DAY_MS) == (Merge("b", 10, 20),)
    assert split(table, "a", 5, 5, DAY_MS) == (Merge("b", 10, 10),)  # before it counts
    with pytest.raises(MergeError, match="more than 1 days ago"):
        split(table, "a", 20, DAY_MS + 11, DAY_MS)
    table.put("a", [Merge("b", 10, 20)])
    with pytest.raises(MergeError, match="nothing to split"):
        split(table, "a", 30, 30, DAY_MS)
    with pytest.raises(MergeError, match="nothing to split"):
        split(table, "b", 30, 30, DAY_MS)
    assert merged(table, "a", "b", 15) == (Merge("b", 10, 20), Merge("b", 20))


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, str | None]]:
    """Merges of an alias with a user, and splits (None), one a millisecond."""
    steps = st.tuples(st.sampled_from(IDS), st.one_of(st.none(), st.sampled_from(IDS)))
    return draw(st.lists(steps, max_size=15))


@given(histories())
def test_the_book_equals_a_plain_reading_of_commands(history: list[tuple[str, str | None]]) -> None:
    table, parent = IdentityTable(), dict.fromkeys(IDS)
    people_at: list[dict[str, str]] = []

    def person(each: str) -> str:
        while (above := parent[each]) is not None:
            each = above
        return each

    for at_ms, (alias_id, user_id) in enumerate(history):
        is_merged = parent[alias_id] is not None
        allowed = is_merged if user_id is None else not is_merged and person(user_id) != alias_id
        try:
            if user_id is None:
                table.put(alias_id, split(table, alias_id, at_ms, at_ms, DAY_MS))
            else:
                table.put(alias_id, merged(table, alias_id, user_id, at_ms))
        except MergeError:
            assert not allowed
        else:
            assert allowed
            parent[alias_id] = user_id
        people_at.append({each: person(each) for each in IDS})
    for at_ms, people in enumerate(people_at):
        for each in IDS:
            assert table.resolve(each, at_ms) == people[each]
            same = [other for other in IDS if people[other] == people[each]]
            assert table.ids_of(each, at_ms) == same
            assert set(same) <= set(table.ever_merged(each))
            assert table.owner(each, at_ms) == people_at[-1][people[each]]
    assert all(table.resolve(each, -1) == each for each in IDS)
    if people_at:
        assert {each: table.resolve(each, END_OF_TIME_MS) for each in IDS} == people_at[-1]


def table() -> IdentityTable:
    """a and b are c; d was c for a while."""
    result = IdentityTable()
    result.put("a", [Merge("b", 10)])
    result.put("b", [Merge("c", 20)])
    result.put("d", [Merge("c", 10, 30)])
    return result


def test_an_erasure_of_one_id_is_due_for_the_others() -> None:
    assert missing_erasures(table(), {"a": 50}, ["a"]) == {"b": 50, "c": 50}
    assert missing_erasures(table(), {"a": 50, "c": 60}, ["a", "c"]) == {"a": 60, "b": 60}
    assert missing_erasures(table(), {"a": 50, "b": 50, "c": 50, "d": 1}, "abcd") == {}


def test_records_that_name_an_erased_user_end() -> None:
    assert without_users(table(), {"a", "b", "c"}) == {"a": (), "b": (), "d": ()}
    both = table()
    both.put("d", [Merge("c", 10, 30), Merge("e", 40)])
    assert without_users(both, {"a", "b", "c"})["d"] == (Merge("e", 40),)
    assert without_users(table(), {"z"}) == {}
