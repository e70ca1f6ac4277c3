"""The record that is sent last holds what every writer has stored."""

from __future__ import annotations

from collections.abc import Sequence

from liveprofile.consent.changes import ConsentChange
from liveprofile.consent.records import read_record
from liveprofile.consent.store import MAX_ROUNDS, Record, send_users, ttl_s, write_time_us
from liveprofile.settings.sections import MAX_TTL_S

START_MS = 1_767_605_700_000


class Table:
    """What is stored, and a topic; `race` runs before each send."""

    def __init__(self) -> None:
        self.rows: dict[str, list[ConsentChange]] = {}
        self.topic: dict[str, list[ConsentChange]] = {}
        self.sends = 0
        self.race = lambda: None

    def read(self, users: Sequence[str]) -> dict[str, list[ConsentChange]]:
        return {user: list(self.rows.get(user, ())) for user in users}

    def send(self, records: Sequence[Record]) -> None:
        self.sends += 1
        self.race()
        for key, value in records:
            user, changes = read_record(key, value)
            self.topic[user] = changes


def change(number: int) -> ConsentChange:
    return ConsentChange(START_MS + number, "marketing", number % 2 == 0)


def test_a_change_between_reading_and_sending_is_sent_too() -> None:
    table = Table()
    table.rows = {"a": [change(1)], "b": [change(2)]}

    def race() -> None:
        if table.sends == 1:
            table.rows["a"] = [change(3), change(1)]

    table.race = race
    send_users(table.read, ["a", "b"], table.send)
    assert table.topic == {"a": [change(3), change(1)], "b": [change(2)]}
    assert table.sends == 2


def test_a_user_who_never_stops_changing_does_not_block_the_command() -> None:
    table = Table()
    table.rows = {"a": [change(0)]}
    table.race = lambda: table.rows["a"].insert(0, change(table.sends))
    send_users(table.read, ["a"], table.send)
    assert table.sends == MAX_ROUNDS


def test_a_withdrawal_is_written_after_a_grant_of_the_same_time() -> None:
    grant, withdrawal = (ConsentChange(7, "risk", yes) for yes in (True, False))
    assert (write_time_us(grant), write_time_us(withdrawal)) == (7_000, 7_001)


def test_changes_expire_with_the_topic() -> None:
    assert ttl_s(86_400_000) == 86_400
    assert ttl_s(-1) == ttl_s(10**15) == MAX_TTL_S
    assert ttl_s(0) == 1
