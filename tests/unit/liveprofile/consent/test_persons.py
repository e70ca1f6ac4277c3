"""A person's consents are the stricter ones of all ids."""

from __future__ import annotations

import random

from liveprofile.consent.changes import ConsentBook, ConsentChange
from liveprofile.consent.persons import PersonConsentBook
from liveprofile.identity.book import IdentityBook, Merge

ALLOWED = dict.fromkeys(("profiling", "recommendation", "marketing", "risk", "training"), True)


def book(**changes: list[ConsentChange]) -> tuple[PersonConsentBook, IdentityBook]:
    consents, identities = ConsentBook(ALLOWED), IdentityBook()
    for user_id, each in changes.items():
        consents.put(user_id, each)
    return PersonConsentBook(consents, identities, ALLOWED), identities


def withdrawn(at_ms: int, purpose: str = "profiling") -> ConsentChange:
    return ConsentChange(at_ms, purpose, False)


def test_what_one_id_withdraws_none_allows_from_the_merge_on() -> None:
    persons, identities = book(a=[withdrawn(5)], x=[withdrawn(5)])
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
    persons, identities = book(a=[withdrawn(5)])
    identities.put("a", [Merge("b", 10, 20)])
    assert not persons.allowed_during("b", "profiling", 10, 20)
    assert persons.allowed_during("b", "profiling", 10, 21)  # after the split
    persons, identities = book(a=[withdrawn(5), ConsentChange(15, "profiling", True)])
    identities.put("a", [Merge("b", 10)])
    assert persons.allowed_during("b", "profiling", 12, 16)
    assert not persons.allowed_during("b", "profiling", 12, 15)


def test_without_merges_it_is_the_book_of_the_users() -> None:
    rng = random.Random(1)
    changes = {
        user: [
            ConsentChange(rng.randrange(50), rng.choice(["risk", "profiling"]), rng.random() < 0.5)
            for _ in range(4)
        ]
        for user in "abc"
    }
    persons, _ = book(**changes)
    plain = ConsentBook(ALLOWED)
    for user, each in changes.items():
        plain.put(user, each)
    for user in "abcd":
        assert (user in persons) is (user in plain)
        for at_ms in range(60):
            assert persons.allowed(user, "risk", at_ms) is plain.allowed(user, "risk", at_ms)
            assert persons.allowed_during(user, "risk", at_ms, 60) is plain.allowed_during(
                user, "risk", at_ms, 60
            )
