"""Which stored rows consents forbid."""

import random

import pytest

from liveprofile.consent.changes import PURPOSES, ConsentChange, ConsentTable
from liveprofile.events.window_times import end_ms, stagger_offset_ms
from liveprofile.privacy.places import TABLES
from liveprofile.settings import WindowSettings
from offline.erasure.erase import Cell
from offline.erasure.withdrawals import StoredRow, find_rows, not_allowed
from tests.support.memory.cassandra import MemoryCassandra
from tests.support.rows.user_rows import user_row

WINDOW_MS = 10


def row(table: str, time_ms: int, is_event: bool = False) -> StoredRow:
    return StoredRow(table, time_ms, is_event, Cell("", (), 0))


def allowed_by(*changes: ConsentChange):
    consents = ConsentTable(dict.fromkeys(PURPOSES, True))
    consents.put("u", changes)
    return lambda purpose, start_ms, end_ms: consents.allowed_during("u", purpose, start_ms, end_ms)


def test_windows_after_a_withdrawal_are_not_allowed_until_a_grant() -> None:
    allowed = allowed_by(
        ConsentChange(25, "profiling", False), ConsentChange(45, "profiling", True)
    )
    ends_ms = range(10, 71, 10)
    for table in ("profile_delta", "user_profile", "segment_member"):
        forbidden = [ms for ms in ends_ms if not_allowed(row(table, ms), allowed, WINDOW_MS)]
        assert forbidden == [40]  # 20 to 30 and 40 to 50 have allowed moments
    # Scores need `risk` only.
    assert not not_allowed(row("risk_score_by_hour", 33, is_event=True), allowed, WINDOW_MS)


def test_flags_of_windows_need_risk_at_their_end_and_scores_at_their_time() -> None:
    allowed = allowed_by(ConsentChange(30, "risk", False))
    assert not not_allowed(row("risk_flag", 29), allowed, WINDOW_MS)
    assert not_allowed(row("risk_flag", 30), allowed, WINDOW_MS)
    assert not_allowed(row("risk_flag_by_day", 31, is_event=True), allowed, WINDOW_MS)
    assert not_allowed(row("risk_score_by_hour", 30, is_event=True), allowed, WINDOW_MS)
    assert not not_allowed(row("risk_score_by_hour", 29, is_event=True), allowed, WINDOW_MS)
    assert not not_allowed(row("profile_delta", 40), allowed, WINDOW_MS)


@pytest.mark.parametrize("seed", range(10))
def test_allowed_during_equals_a_look_at_each_moment(seed: int) -> None:
    rng = random.Random(seed)
    defaults = {purpose: rng.random() < 0.5 for purpose in PURPOSES}
    consents = ConsentTable(defaults)
    for user in "abc":
        changes = [
            ConsentChange(rng.randrange(20), rng.choice(PURPOSES[:2]), rng.random() < 0.5)
            for _ in range(rng.randrange(6))
        ]
        consents.put(user, changes)
        for _ in range(50):
            start_ms = rng.randrange(20)
            end_ms = start_ms + rng.randrange(1, 8)
            expected = any(
                consents.allowed(user, "profiling", at_ms) for at_ms in range(start_ms, end_ms)
            )
            assert consents.allowed_during(user, "profiling", start_ms, end_ms) is expected
    assert set(consents.users()) == {user for user in "abc" if user in consents}


TIME_MS = 1_767_605_700_000
MEMBER_TABLES = ("user_segment", "segment_member", "user_profile", "profile_delta")


@pytest.mark.parametrize("window", [(1_500, 0), (1_001, 0), (600_000, 10_000)])
@pytest.mark.parametrize("revision", [0, 1, 999, 999_999])
def test_rows_belong_to_the_window_that_wrote_them(window: tuple[int, int], revision: int) -> None:
    settings, rng = WindowSettings(length_ms=window[0], stagger_ms=window[1]), random.Random(3)
    for user in (f"user-{number}" for number in range(20)):
        session = MemoryCassandra()
        ended_ms = end_ms(
            TIME_MS + rng.randrange(9_000_000), stagger_offset_ms(user, settings), settings
        )
        for table in MEMBER_TABLES:
            row = user_row(table, user) | {"segment": "s", "window_end": ended_ms}
            columns = TABLES[table].columns
            row = {name: value for name, value in row.items() if name in columns}
            session.put(table, row, time_us=ended_ms * 1_000 + revision)
        found = find_rows(session, user, lambda *span: False, settings, 0)
        assert {each.table: each.time_ms for each in found} == dict.fromkeys(
            MEMBER_TABLES, ended_ms
        )
