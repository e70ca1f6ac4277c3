"""What is in force at a time, against a plain reading of the rule."""

from __future__ import annotations

import random

import pytest

from liveprofile.consent.changes import PURPOSES, ConsentBook, ConsentChange, in_order, newest

ALL = dict.fromkeys(PURPOSES, True)


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
def test_book_equals_the_rule(seed: int) -> None:
    rng = random.Random(seed)
    defaults = {purpose: rng.random() < 0.5 for purpose in PURPOSES}
    book = ConsentBook(defaults)
    users: dict[str, list[ConsentChange]] = {}
    for _ in range(60):
        user = f"u{rng.randrange(8)}"
        # Few times, so that many are equal.
        one = ConsentChange(rng.randrange(12), rng.choice(PURPOSES), rng.random() < 0.5)
        users.setdefault(user, []).append(one)
        book.put(user, rng.sample(users[user], len(users[user])))
    for user in [*users, "nobody"]:
        for purpose in PURPOSES:
            for at_ms in range(-1, 13):
                expected = plainly(users.get(user, []), purpose, at_ms, defaults[purpose])
                assert book.allowed(user, purpose, at_ms) is expected
                assert book.allowed_rows([user], purpose, [at_ms]) == [expected]
                change = newest(users.get(user, []), purpose, at_ms)
                assert (defaults[purpose] if change is None else change.granted) is expected


def test_book_keeps_only_users_who_differ_from_the_defaults() -> None:
    book = ConsentBook(ALL)
    book.put("agrees", [ConsentChange(5, "marketing", True)])
    assert "agrees" not in book and book.allowed("agrees", "marketing", 9)
    book.put("refuses", [ConsentChange(5, "marketing", False)])
    assert "refuses" in book and len(book) == 1
    assert book.allowed("refuses", "marketing", 4) and book.allowed("refuses", "training", 9)
    assert not book.allowed("refuses", "marketing", 5)
    book.put("refuses", [])  # a record without a value
    assert len(book) == 0 and book.allowed("refuses", "marketing", 9)
    assert book.allowed_rows(["refuses", "b"], "marketing", [9, 9]) == [True, True]


def test_times_of_today_fit_into_the_book() -> None:
    book, last_ms = ConsentBook(ALL), 253_402_300_799_999
    book.put("u", [ConsentChange(last_ms, "training", False)])
    assert book.allowed("u", "training", last_ms - 1)
    assert not book.allowed("u", "training", last_ms)


def test_order_is_newest_first_with_withdrawals_before_grants() -> None:
    grant, withdrawal = (ConsentChange(5, "risk", yes) for yes in (True, False))
    newer = ConsentChange(6, "risk", True)
    assert in_order([grant, newer, withdrawal]) == [newer, withdrawal, grant]
