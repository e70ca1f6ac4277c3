"""Events that users do not allow reach neither the model nor a table."""

from __future__ import annotations

import random

import pytest

from liveprofile.consent.changes import PURPOSES, ConsentChange, ConsentTable
from liveprofile.privacy.erasures import ErasureTable
from liveprofile.wire.tokens import EVENT, FIELD
from udfs.privacy import UsableWindows, usable_windows

ALL = dict.fromkeys(PURPOSES, True)


def events(*times_ms: int) -> str:
    return EVENT.join(
        FIELD.join((str(time_ms), "3", str(100 + time_ms), f'{{"odd":"{FIELD}"}}'))
        for time_ms in times_ms
    )


def allowed_windows(users: list[str], texts: list[str], consents: ConsentTable) -> UsableWindows:
    return usable_windows(users, [0] * len(users), texts, consents, ErasureTable())


def test_windows_of_users_without_changes_are_passed_on_as_they_are() -> None:
    text = events(1, 2)
    allowed = allowed_windows(["a"], [text], ConsentTable(ALL))
    assert allowed == ([0], [text], [[]]) and allowed.events[0] is text


def test_each_event_is_decided_by_its_own_time() -> None:
    book = ConsentTable(ALL)
    changes = [ConsentChange(5, "profiling", False), ConsentChange(8, "profiling", True)]
    book.put("a", [*changes, ConsentChange(1, "marketing", False)])
    allowed = allowed_windows(["b", "a", "a"], [events(5), events(9, 4, 5, 7, 8), events(6)], book)
    assert allowed.rows == [0, 1]
    assert allowed.events == [events(5), events(9, 4, 8)]
    assert [[each.offset for each in row] for row in allowed.refused] == [
        [],
        ["105", "107"],
        ["106"],
    ]
    one = allowed.refused[2][0]
    assert one == ("NO_CONSENT", "profiling", "3", "106", "")


@pytest.mark.parametrize("seed", range(10))
def test_no_event_is_lost_or_duplicated(seed: int) -> None:
    rng, book = random.Random(seed), ConsentTable(ALL)
    for user in "abc":
        book.put(
            user,
            [ConsentChange(rng.randrange(20), "profiling", rng.random() < 0.5) for _ in range(3)],
        )
    users = [rng.choice("abcd") for _ in range(30)]
    times = [rng.sample(range(20), rng.randint(1, 6)) for _ in users]
    allowed = allowed_windows(users, [events(*each) for each in times], book)
    kept = dict(zip(allowed.rows, allowed.events, strict=True))
    for row, (user, of_row) in enumerate(zip(users, times, strict=True)):
        expected = [time_ms for time_ms in of_row if book.allowed(user, "profiling", time_ms)]
        assert kept.get(row, "") == events(*expected)
        assert len(allowed.refused[row]) == len(of_row) - len(expected)
