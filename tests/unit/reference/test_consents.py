"""The oracle of tests/consents.py, by examples, and against the product's book."""

from __future__ import annotations

import random

import pytest

from liveprofile.consent.changes import ConsentBook, ConsentChange
from tests.reference.consents import PURPOSES, Change, Knowledge, is_allowed

WITHDRAWN, GRANTED = Change(50, "risk", False), Change(80, "risk", True)


def test_a_change_that_is_known_leaves_one_decision() -> None:
    knowledge = Knowledge([0, 100], {"u": [WITHDRAWN, GRANTED]}, [{}, {}])
    for at_ms in (0, 49, 80, 150):
        assert knowledge.decisions("u", "risk", at_ms, at_ms) == {True}
    assert knowledge.decisions("u", "risk", 50, 50) == {False}
    assert knowledge.decisions("v", "risk", 50, 50) == {True}
    assert knowledge.decisions("u", "training", 50, 50) == {True}


def test_a_late_change_leaves_both_decisions_in_its_part_and_one_after_it() -> None:
    knowledge = Knowledge([0, 100], {}, [{"u": [WITHDRAWN]}, {}])
    assert knowledge.decisions("u", "risk", 49, 49) == {True}
    assert knowledge.decisions("u", "risk", 60, 60) == {True, False}
    assert knowledge.decisions("u", "risk", 100, 100) == {False}
    # A window that ends in the next part and has an event of this one.
    assert knowledge.decisions("u", "risk", 110, 99) == {True, False}
    assert not knowledge.finally_allowed("u", "risk", 60)


def test_a_span_is_allowed_if_one_moment_is() -> None:
    knowledge = Knowledge([0], {"u": [WITHDRAWN, GRANTED]}, [{}])
    assert knowledge.allowed_during("u", "risk", 40, 60)
    assert not knowledge.allowed_during("u", "risk", 50, 80)
    assert knowledge.allowed_during("u", "risk", 50, 81)


@pytest.mark.parametrize("seed", range(5))
def test_the_oracle_and_the_book_agree(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        changes = [
            Change(rng.randrange(8), rng.choice(PURPOSES[:2]), rng.random() < 0.5)
            for _ in range(rng.randrange(6))
        ]
        book = ConsentBook(dict.fromkeys(PURPOSES, True))
        book.put("u", [ConsentChange(*each) for each in changes])
        for at_ms in range(-1, 9):
            allowed = is_allowed(changes, "profiling", at_ms)
            assert book.allowed("u", "profiling", at_ms) is allowed
