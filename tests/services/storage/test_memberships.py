"""The tables of segment members on a real node, written by the job's sink and by a sweep."""

import pytest
from cassandra.cluster import Session

from liveprofile.errors import ServiceError
from liveprofile.segments.membership import ChangeKey, Membership, MembershipWrite
from liveprofile.settings import CassandraSettings
from liveprofile.storage.queries import TOKEN_MAX, TOKEN_MIN
from offline.sweep_store import CassandraSweepStore
from services import segments as members
from tests.services.conftest import empty
from tests.support.rows.profile_rows import profile_row, write_and_flush
from tests.support.rows.segment_examples import segments
from udfs.cassandra.encoding import write_time_us
from udfs.profile.store import CassandraProfileStore

SEGMENTS = segments(loyal="events > 1", lapsing="events > 2")


def membership(row, number: int = 1, sweep: str = "", later_us: int = 0) -> Membership:
    return Membership(
        member=number % 2 == 1,
        since_ms=row.window_end_ms + later_us,
        number=number,
        announced=number % 2 == 1,
        window_end_ms=row.window_end_ms,
        version=3,
        sweep=sweep,
        reason='{"cause":"window","values":{"é":1}}',
        write_time_us=write_time_us(row) + later_us,
    )


def with_membership(user_id: str, window: int, *numbers: int):
    row = profile_row(user_id, window=window)
    writes = [
        MembershipWrite(user_id, "loyal", membership(row, number, later_us=index), True, True)
        for index, number in enumerate(numbers)
    ]
    return row._replace(memberships=writes)


def member_ids(session: Session, segment_id: str = "loyal") -> set[str]:
    return {member.user_id for member in members.members(session, segment_id)}


@pytest.fixture(autouse=True)
def _no_memberships(session: Session) -> None:
    empty(session, ("user_segment", "segment_member", "segment_change", "segment_sweep"))


def test_memberships_are_read_as_they_were_written(sink: CassandraProfileStore, session: Session):
    users = [f"ü{number}" for number in range(120)]
    rows = [with_membership(user, 0, 1) for user in users]
    write_and_flush(sink, *rows)
    found = sink.users.memberships([*users, "stranger"])
    assert found == {
        **{row.user_id: {"loyal": row.memberships[0].membership} for row in rows},
        "stranger": {},
    }
    assert member_ids(session) == set(users)
    key = ChangeKey(users[0], "loyal", rows[0].window_end_ms)
    assert sink.users.stored_changes([key, key._replace(window_end_ms=1)]) == {
        key: rows[0].memberships[0].membership
    }


def test_later_window_wins_over_a_replay_of_an_earlier_one(
    sink: CassandraProfileStore, session: Session
):
    entered, left = with_membership("u", 0, 1), with_membership("u", 1, 2)
    write_and_flush(sink, left)
    write_and_flush(sink, entered)  # arrives later
    assert not sink.users.memberships(["u"])["u"]["loyal"].member
    assert member_ids(session) == set()
    again = with_membership("u", 2, 3)
    write_and_flush(sink, again)
    write_and_flush(sink, left)
    assert sink.users.memberships(["u"])["u"]["loyal"].number == 3
    assert member_ids(session) == {"u"}


def test_two_windows_of_a_user_in_one_batch_are_both_stored(
    sink: CassandraProfileStore, session: Session
):
    write_and_flush(sink, with_membership("u", 0, 1), with_membership("u", 1, 2))
    assert sink.users.memberships(["u"])["u"]["loyal"].number == 2
    numbers = session.execute("SELECT number FROM segment_change WHERE user_id = 'u'").all()
    assert [row.number for row in numbers] == [2, 1]
    [row] = session.execute("SELECT TTL(member) AS ttl FROM user_segment").all()
    [profile] = session.execute("SELECT TTL(churn) AS ttl FROM user_profile").all()
    assert 1.9 < row.ttl / profile.ttl < 2.1, "memberships expire later"


def test_sweep_store_reads_ranges_and_writes_like_the_job(
    sink: CassandraProfileStore, session: Session, settings: CassandraSettings
):
    rows = [with_membership(f"u{number}", 0, 1) for number in range(30)]
    write_and_flush(sink, *rows)
    store = CassandraSweepStore(session, settings, SEGMENTS, page_users=7)
    assert store.memberships_between(TOKEN_MIN, TOKEN_MAX) == sink.users.memberships(
        [row.user_id for row in rows]
    )
    assert store.window_ends_ms(["u1", "stranger"]) == {"u1": rows[1].window_end_ms}
    left = MembershipWrite("u1", "loyal", membership(rows[1], 2, "s1", 1_000), True, True)
    hidden = MembershipWrite("u1", "lapsing", membership(rows[1], 1, "s1", 1_000), True, True)
    store.write([left, hidden])
    assert store.memberships(["u1"]) == {
        "u1": {"loyal": left.membership, "lapsing": hidden.membership}
    }
    assert "u1" not in member_ids(session) and member_ids(session, "lapsing") == {"u1"}
    changes = store.changes_between("s1", TOKEN_MIN, TOKEN_MAX)
    assert sorted(changes) == sorted([left, hidden])


def test_sweep_is_claimed_by_one_process_and_continued_after_its_lease(
    session: Session, settings: CassandraSettings
):
    def store(lease_s: float = 60.0) -> CassandraSweepStore:
        return CassandraSweepStore(session, settings, SEGMENTS, lease_s=lease_s)

    first = store(lease_s=0.0)
    state = first.claim(1_000)
    assert (state.time_ms, state.position) == (1_000, TOKEN_MIN)
    assert not state.known_definitions
    progress = state._replace(position=5, pending=9, users=9, members={"loyal": 4})
    first.advance(progress)
    second = store()
    assert second.claim(2_000) == progress
    with pytest.raises(ServiceError, match="taken over"):
        first.advance(progress)
    with pytest.raises(ServiceError, match="another process sweeps"):
        store().claim(2_000)
    second.finish(progress)
    [size] = members.sizes(session, "loyal")
    assert size == members.SegmentSize(1_000, 4, 9)
    fresh = store().claim(3_000)
    assert (fresh.time_ms, fresh.position) == (3_000, TOKEN_MIN) and fresh.sweep != state.sweep
    assert fresh.known_definitions
