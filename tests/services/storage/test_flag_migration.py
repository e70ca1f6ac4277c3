"""The flags of a keyspace of an earlier version move to tables with the present key."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from cassandra.cluster import Session

from liveprofile.errors import ServiceError
from liveprofile.settings import CassandraSettings
from liveprofile.storage import flag_migration, queries
from liveprofile.storage.connection import open_session
from liveprofile.storage.schema import create_schema, schema_statements
from tests.support.rows.profile_rows import DIM, flag, profile_row
from udfs.cassandra import encoding
from udfs.profile.sink import CassandraProfileSink

pytestmark = pytest.mark.services

FLAG_TABLES = flag_migration.TABLES
TTL_S = 10_000


@pytest.fixture
def older(settings: CassandraSettings, session: Session) -> Iterator[CassandraSettings]:
    """A keyspace whose tables of flags have 60 flags each and no event id in the key."""
    older = settings.model_copy(update={"keyspace": f"{settings.keyspace}_older_key"})
    for statement in schema_statements(older, DIM):
        if statement.startswith("CREATE"):
            old_statement = re.sub(r", event_id( ASC)?\)", ")", statement)
            session.execute(old_statement, timeout=60)
    with open_session(older) as own:
        for number in range(30):
            row = profile_row(f"u{number}")
            for one in flag(event_id="e"), flag("other"):
                for table, columns, values in (
                    ("risk_flag", encoding.FLAG_COLUMNS, encoding.encode_flag(row, one)),
                    (
                        "risk_flag_by_day",
                        encoding.FLAG_BY_DAY_COLUMNS,
                        encoding.encode_flag_by_day(row, one),
                    ),
                ):
                    cql = encoding.insert_cql(older.keyspace, table, columns, TTL_S)
                    own.execute(CassandraProfileSink._bound(own.prepare(cql), values))
    yield older
    session.execute(f"DROP KEYSPACE {older.keyspace}", timeout=60)


def stored_flags(session: Session, table: str) -> list[tuple[Any, ...]]:
    # The order of the columns differs.
    rows = [
        (json.dumps(json.loads(row[0]), sort_keys=True),)
        for row in session.execute(f"SELECT JSON * FROM {table}")
    ]
    written = session.execute(f"SELECT flag_id, user_id, rule_id, WRITETIME(reason) FROM {table}")
    return sorted([*rows, *map(tuple, written)])


def test_every_flag_is_kept_with_its_write_time_and_its_time_to_live(
    older: CassandraSettings,
) -> None:
    with open_session(older) as own:
        with pytest.raises(ServiceError, match="key of this version"):
            CassandraProfileSink(older, DIM, own)
        before = {table: stored_flags(own, table) for table in FLAG_TABLES}
        create_schema(older, DIM)
        assert {table: stored_flags(own, table) for table in FLAG_TABLES} == before
        assert len(before["risk_flag"]) == 2 * 60
        for table in FLAG_TABLES:
            left_s = [row[0] for row in own.execute(f"SELECT TTL(reason) FROM {table}")]
            assert TTL_S - 600 < min(left_s) <= max(left_s) <= TTL_S
        assert {found.event_id for found in queries.flags(own, "u3")} == {"e", ""}
        CassandraProfileSink(older, DIM, own)


class InterruptedSession:
    """A session that fails after `allowed` statements that create or drop a table."""

    def __init__(self, session: Session, allowed: int):
        self._session, self._allowed = session, allowed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def execute(self, query: Any, *args: Any, **options: Any) -> Any:
        if isinstance(query, str) and query.startswith(("CREATE", "DROP")):
            if not self._allowed:
                raise InterruptedError
            self._allowed -= 1
        return self._session.execute(query, *args, **options)


def test_interrupted_migration_goes_on(older: CassandraSettings) -> None:
    statements = schema_statements(older, DIM)
    with open_session(older) as own:
        before = {table: stored_flags(own, table) for table in FLAG_TABLES}
        for allowed in itertools.count():
            with suppress(InterruptedError):
                session = InterruptedSession(own, allowed)
                flag_migration.migrate_flags(session, older.keyspace, statements)
                break
            for statement in statements:  # as the next `create_schema` does first
                own.execute(statement, timeout=60)
        assert allowed > 3
        assert {table: stored_flags(own, table) for table in FLAG_TABLES} == before
