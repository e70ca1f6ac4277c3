"""Records of the topic: their schema, and which are refused."""

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from liveprofile.consent.changes import (
    MAX_ROUNDS,
    PURPOSES,
    ConsentChange,
    ConsentError,
    ConsentTable,
    PersonConsentTable,
    Record,
    newest,
    read_change,
    read_record,
    send_users,
    write_time_us,
)
from liveprofile.identity.merges import IdentityTable, Merge


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("purpose", "sales", "must be one of profiling"),
        ("granted", "yes", "must be true or false"),
        ("basis", "x" * 257, "at most 256 characters"),
        ("time", "yesterday", "neither epoch milliseconds"),
        ("time", "1999-12-31T23:59:59Z", "neither epoch milliseconds"),
        ("time", 10**18, "neither epoch milliseconds"),
        ("colour", "red", "unknown field 'colour'"),
    ],
)
def test_an_invalid_change_is_refused(field: str, value: Any, message: str) -> None:
    change = {"time": "2026-01-05T09:35:00Z", "purpose": "risk", "granted": True}
    assert read_change(change) == ConsentChange(1_767_605_700_000, "risk", True)
    with pytest.raises(ConsentError, match=message):
        read_change(change | {field: value})


def plainly(changes: list[ConsentChange], purpose: str, at_ms: int, default: bool) -> bool:
    state, since = default, -1
    for change in changes:
        if change.purpose != purpose or change.time_ms > at_ms:
            continue
        if change.time_ms > since:
            state, since = change.granted, change.time_ms
        elif change.time_ms == since:
            state = state and change.granted
    return state


@pytest.mark.parametrize("seed", range(20))
def test_table_equals_the_rule(seed: int) -> None:
    rng = random.Random(seed)
    defaults = {purpose: rng.random() < 0.5 for purpose in PURPOSES}
    consents = ConsentTable(defaults)
    users: dict[str, list[ConsentChange]] = {}
    for _ in range(60):
        user = f"u{rng.randrange(8)}"
        # Few times, so that many are equal.
        one = ConsentChange(rng.randrange(12), rng.choice(PURPOSES), rng.random() < 0.5)
        users.setdefault(user, []).append(one)
        consents.put(user, rng.sample(users[user], len(users[user])))
    for user in [*users, "nobody"]:
        for purpose in PURPOSES:
            for at_ms in range(-1, 13):
                expected = plainly(users.get(user, []), purpose, at_ms, defaults[purpose])
                assert consents.allowed(user, purpose, at_ms) is expected
                assert consents.allowed_rows([user], purpose, [at_ms]) == [expected]
                change = newest(users.get(user, []), purpose, at_ms)
                assert (defaults[purpose] if change is None else change.granted) is expected


ALLOWED = dict.fromkeys(("profiling", "recommendation", "marketing", "risk", "training"), True)


def tables(**changes: list[ConsentChange]) -> tuple[PersonConsentTable, IdentityTable]:
    consents, identities = ConsentTable(ALLOWED), IdentityTable()
    for user_id, each in changes.items():
        consents.put(user_id, each)
    return PersonConsentTable(consents, identities, ALLOWED), identities


def withdrawn(at_ms: int, purpose: str = "profiling") -> ConsentChange:
    return ConsentChange(at_ms, purpose, False)


def test_what_one_id_withdraws_none_allows_from_the_merge_on() -> None:
    persons, identities = tables(a=[withdrawn(5)], x=[withdrawn(5)])
    identities.put("a", [Merge("b", 10, 20)])
    assert [persons.allowed("b", "profiling", at) for at in (9, 10, 19, 20)] == [
        True,
        False,
        False,
        True,
    ]
    assert not persons.allowed("a", "profiling", 9) and persons.allowed("a", "risk", 10)
    assert not persons.allowed("x", "profiling", 9)
    assert "a" in persons and "b" in persons and "x" in persons and "c" not in persons
    assert persons.users() == ["a", "b", "x"]
    assert persons.allowed_rows(["b", "b", "c"], "profiling", [9, 10, 10]) == [True, False, True]
    assert not persons.allowing("profiling", 15)("b")


def test_any_moment_of_a_time_counts() -> None:
    persons, identities = tables(a=[withdrawn(5)])
    identities.put("a", [Merge("b", 10, 20)])
    assert not persons.allowed_during("b", "profiling", 10, 20)
    assert persons.allowed_during("b", "profiling", 10, 21)  # after the split
    persons, identities = tables(a=[withdrawn(5), ConsentChange(15, "profiling", True)])
    identities.put("a", [Merge("b", 10)])
    assert persons.allowed_during("b", "profiling", 12, 16)
    assert not persons.allowed_during("b", "profiling", 12, 15)


START_MS = 1_767_605_700_000


def sent(
    rows: dict[str, list[ConsentChange]], race: Callable[[int], None]
) -> tuple[dict[str, list[ConsentChange]], int]:
    """What the topic has after the stored rows were sent, and how often was sent.

    race: runs before each sending, with its number.
    """
    topic: dict[str, list[ConsentChange]] = {}
    sends = itertools.count(1)

    def send(records: Sequence[Record]) -> None:
        race(next(sends))
        topic.update(read_record(*record) for record in records)

    send_users(lambda users: {user: list(rows[user]) for user in users}, list(rows), send)
    return topic, next(sends) - 1


def change(number: int) -> ConsentChange:
    return ConsentChange(START_MS + number, "marketing", number % 2 == 0)


def test_a_change_between_reading_and_sending_is_sent_too() -> None:
    rows = {"a": [change(1)], "b": [change(2)]}

    def race(number: int) -> None:
        if number == 1:
            rows["a"] = [change(3), change(1)]

    assert sent(rows, race) == ({"a": [change(3), change(1)], "b": [change(2)]}, 2)


def test_a_user_who_never_stops_changing_does_not_block_the_command() -> None:
    rows = {"a": [change(0)]}
    _, sends = sent(rows, lambda number: rows["a"].insert(0, change(number)))
    assert sends == MAX_ROUNDS


def test_a_withdrawal_is_written_after_a_grant_of_the_same_time() -> None:
    grant, withdrawal = (ConsentChange(7, "risk", yes) for yes in (True, False))
    assert (write_time_us(grant), write_time_us(withdrawal)) == (7_000, 7_001)
