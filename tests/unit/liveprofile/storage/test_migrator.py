"""Migrations are applied once, in order, under a lock, and can be resumed and reverted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cassandra import Unauthorized

from liveprofile import __version__
from liveprofile.errors import ConfigError, InputError, ServiceError
from liveprofile.storage.migrations import Migration, filled
from liveprofile.storage.migrator import MigrationRecords, Migrator
from tests.support.memory.schema import MemorySchema

VALUES = {"keyspace": "shop", "dim": "4"}
FIRST = Migration(
    1, "first", ("CREATE TABLE IF NOT EXISTS {keyspace}.user (user_id text PRIMARY KEY)",), ()
)
SECOND = Migration(
    2,
    "second",
    (
        "ALTER TABLE {keyspace}.user ADD IF NOT EXISTS (age int)",
        "CREATE TABLE IF NOT EXISTS {keyspace}.score (user_id text PRIMARY KEY, score double)",
    ),
    (
        "DROP TABLE IF EXISTS {keyspace}.score",
        "ALTER TABLE {keyspace}.user DROP IF EXISTS (age)",
    ),
)
OLD_SCORE = "CREATE TABLE IF NOT EXISTS {keyspace}.old_score (user_id text PRIMARY KEY)"
THIRD = Migration(
    3, "third", ("DROP TABLE IF EXISTS {keyspace}.old_score",), (OLD_SCORE,), "old_score"
)
ALL = (FIRST, SECOND, THIRD)
DECLARED = {"user": ["user_id", "age"], "score": ["user_id", "score"]}
RELEASED = (filled(FIRST.up[0], VALUES), filled(OLD_SCORE, VALUES))


def migrator(session: MemorySchema, migrations: Any = ALL) -> Migrator:
    records = MigrationRecords(session, "shop", sleep=lambda seconds: None)
    return Migrator(session, VALUES, migrations, records, DECLARED)


def states(session: MemorySchema, migrations: Any = ALL) -> list[str]:
    return [step.state for step in migrator(session, migrations).steps()]


def test_fresh_keyspace_gets_all_and_a_second_run_nothing() -> None:
    session = MemorySchema()
    assert states(session) == ["pending"] * 3
    assert migrator(session).apply() == ["0001_first", "0002_second", "0003_third"]
    assert states(session) == ["applied"] * 3
    assert all(owner for text, owner in session.ddl if "schema_migration" not in text)
    assert session.owner is None
    done = len(session.ddl)
    assert migrator(session).apply() == []
    assert len(session.ddl) == done
    [record, *_] = (step.applied for step in migrator(session).steps())
    assert (record.checksum, record.version) == (FIRST.checksum, __version__)


def test_table_of_earlier_releases_stays_until_it_is_empty_and_nobody_needs_it() -> None:
    session = MemorySchema(RELEASED)
    assert states(session) == ["pending", "pending", "waiting"]
    assert migrator(session).apply() == ["0001_first", "0002_second"]
    assert "old_score" in session.columns()
    session.rows["old_score"] = [("u",)]
    with pytest.raises(InputError, match=r"0003_third would drop shop.old_score.*still has rows"):
        migrator(session).apply(contract=True)
    assert session.owner is None
    session.rows.clear()
    assert migrator(session).apply(contract=True) == ["0003_third"]
    assert "old_score" not in session.columns()
    # A setup of the earlier release creates it again.
    session.execute(filled(OLD_SCORE, VALUES))
    assert states(session) == ["applied", "applied", "waiting"]
    assert migrator(session).apply() == []
    assert migrator(session).apply(contract=True) == ["0003_third"]


def test_reverted_keyspace_is_as_before_and_can_be_migrated_again() -> None:
    session = MemorySchema(RELEASED)
    before = session.columns()
    migrator(session).apply(contract=True)
    after = session.columns()
    found = migrator(session).revert(1)
    assert [each.title for each in found] == ["0003_third", "0002_second"]
    assert session.columns() == before
    assert states(session) == ["applied", "pending", "waiting"]
    migrator(session).apply(contract=True)
    assert session.columns() == after


def test_revert_without_number_undoes_the_last_one_and_a_dry_run_none() -> None:
    session = MemorySchema()
    migrator(session).apply()
    done = len(session.ddl)
    assert migrator(session).revert(dry_run=True) == [THIRD]
    assert len(session.ddl) == done
    assert migrator(session).revert() == [THIRD]
    assert migrator(session).revert() == [SECOND]
    with pytest.raises(InputError, match="0001_first cannot be reverted"):
        migrator(session).revert()
    with pytest.raises(InputError, match=r"--to 2: not an applied migration \(1\)"):
        migrator(session).revert(2)


@pytest.mark.parametrize("down", [False, True])
def test_failed_step_says_what_to_do_and_is_resumed(down: bool) -> None:
    session = MemorySchema()
    if down:
        migrator(session).apply()
    failing = (SECOND.down if down else SECOND.up)[1]

    def refuse(statement: str) -> None:
        if statement == filled(failing, VALUES):
            raise Unauthorized("no permission")

    session.before = refuse
    with pytest.raises(ServiceError) as failed:
        migrator(session).revert(1) if down else migrator(session).apply()
    message = str(failed.value)
    assert "migration 0002_second, statement 2 of 2" in message and "no permission" in message
    command = "migrations revert --to 1 --yes" if down else "setup"
    assert f"run `liveprofile {command}` again" in message
    assert session.owner is None
    assert 1 in session.records and 3 not in session.records
    assert (2 in session.records) is down
    session.before = lambda statement: None
    migrator(session).revert(1) if down else migrator(session).apply()
    rest = ["pending", "waiting"] if down else ["applied", "applied"]
    assert states(session) == ["applied", *rest]


def test_missing_column_of_an_applied_migration_is_added_again() -> None:
    session = MemorySchema()
    migrator(session).apply()
    session.execute("ALTER TABLE shop.user DROP IF EXISTS (age)")
    assert states(session) == ["applied", "incomplete", "applied"]
    assert migrator(session).apply() == ["0002_second"]
    assert states(session) == ["applied"] * 3


def test_edited_migration_is_an_error_in_both_directions() -> None:
    session = MemorySchema()
    migrator(session).apply()
    edited = SECOND._replace(up=(SECOND.up[0].replace("int", "bigint"), SECOND.up[1]))
    for run in (lambda own: own.apply(), lambda own: own.revert(1)):
        with pytest.raises(ConfigError, match=r"0002_second is not the one.*were edited"):
            run(migrator(session, (FIRST, edited, THIRD)))


def test_keyspace_of_a_newer_version_is_left_alone() -> None:
    session = MemorySchema()
    migrator(session).apply()
    done = len(session.ddl)
    assert migrator(session, (FIRST,)).apply() == []
    assert states(session, (FIRST,)) == ["applied", "unknown", "unknown"]
    with pytest.raises(InputError, match=r"0003_third was applied by Liveprofile .*that version"):
        migrator(session, (FIRST,)).revert(1)
    assert len(session.ddl) == done


def test_concurrent_setups_apply_each_migration_once() -> None:
    session = MemorySchema()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: migrator(session).apply(), range(4)))
    assert sorted(found, key=len) == [[], [], [], ["0001_first", "0002_second", "0003_third"]]
    owners = {owner for text, owner in session.ddl if "schema_migration" not in text}
    assert len(owners) == 1 and None not in owners


def test_table_of_records_that_is_just_created_is_read_again() -> None:
    session = MemorySchema()
    migrator(session).apply()
    session.unknown_reads = 2
    assert states(session) == ["applied"] * 3


def test_process_that_has_lost_the_lock_stops() -> None:
    session = MemorySchema()

    def take(statement: str) -> None:
        if statement == filled(SECOND.up[0], VALUES):
            session.owner = "another"

    session.before = take
    with pytest.raises(ServiceError, match="another process has taken the lock"):
        migrator(session).apply()
    assert session.owner == "another" and list(session.records) == [1]


def test_lock_is_renewed_when_statements_take_long() -> None:
    session, now_s = MemorySchema(), [1_000.0]
    records = MigrationRecords(session, "shop", lambda seconds: None, lambda: now_s[0])

    def take_a_minute(statement: str) -> None:
        now_s[0] += 60

    session.before = take_a_minute
    assert len(Migrator(session, VALUES, ALL, records, DECLARED).apply()) == 3
    # Each record renews the lock too, so only the second statement of a migration needs it.
    assert session.renewals == 1


def test_lock_that_is_never_released_is_an_error() -> None:
    session = MemorySchema()
    session.owner = "host a, process 1"
    times = iter(range(0, 10_000, 100))
    records = MigrationRecords(session, "shop", lambda seconds: None, lambda: next(times))
    with pytest.raises(ServiceError, match=r"host a, process 1.*the lock ends 180 s after"):
        Migrator(session, VALUES, ALL, records, DECLARED).apply()
