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


@pytest.mark.parametrize("seed", range(10))
def test_each_event_is_decided_by_its_own_time(seed: int) -> None:
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
        refused = [time_ms for time_ms in of_row if time_ms not in expected]
        assert allowed.refused[row] == [
            ("NO_CONSENT", "profiling", "3", str(100 + time_ms), "") for time_ms in refused
        ]
