"""What a keyspace lacks is added by one process at a time, and what does not fit is refused."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from cassandra.cluster import Session

from liveprofile.errors import ConfigError, ServiceError
from liveprofile.rows.operations import CHORE
from liveprofile.rows.table import Column, Table, table
from liveprofile.settings import CassandraSettings
from liveprofile.storage import schema
from liveprofile.storage.connection import open_session
from liveprofile.storage.lease import lock, take
from liveprofile.storage.schema import SCOPE, create_schema, missing_names, missing_schema
from tests.support.rows.profile_rows import DIM

DAY = table(
    "day", "", "day date\nuser text\nname text static\nn int", "day, user", limit="", holds=""
)
VISIT = table(
    "visit",
    "",
    "user text\nembedding vector<float, {dim}>\npages set<text>",
    "user",
    limit="",
    holds="",
    indexes=("visit_pages (pages) USING 'sai'",),
)
NAMES = ["table day", "table visit", "index visit_pages"]


def add(own: CassandraSettings, *tables: Table, lock_ttl_s: int = 30) -> list[str]:
    return create_schema(own, DIM, tables, lock_ttl_s)


def without(whole: Table, *columns: str) -> Table:
    """The table as an earlier version had it."""
    kept = {name: each for name, each in whole.columns.items() if name not in columns}
    return whole._replace(columns=kept, indexes=())


@pytest.fixture
def own(settings: CassandraSettings, session: Session) -> Iterator[CassandraSettings]:
    """A keyspace with the table of the lease."""
    own = settings.model_copy(update={"keyspace": f"{settings.keyspace}_added"})
    assert create_schema(own, DIM, [CHORE]) == [f"keyspace {own.keyspace}", "table chore"]
    yield own
    session.execute(f"DROP KEYSPACE {own.keyspace}", timeout=60)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], object]], None]:
    """Calls a function before each statement that adds something."""

    def watch(before: Callable[[str], object]) -> None:
        execute = schema.execute

        def watched(session: Session, statement: str, **options: object) -> object:
            before(statement)
            return execute(session, statement, **options)

        monkeypatch.setattr(schema, "execute", watched)

    return watch


def test_complete_keyspace_lacks_nothing_and_needs_no_permission(
    settings: CassandraSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in ("execute", "lock"):  # nothing is written
        monkeypatch.delattr(schema, each)
    assert missing_schema(settings, DIM) == create_schema(settings, DIM) == []


def test_setups_at_the_same_time_add_each_table_once(own: CassandraSettings) -> None:
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: add(own, DAY, VISIT), range(3)))
    assert sorted(found, key=len) == [[], [], NAMES]


def test_missing_columns_and_indexes_are_added(own: CassandraSettings) -> None:
    add(own, without(DAY, "name", "n"), without(VISIT, "pages", "embedding"))
    with open_session(own) as session:
        found = schema.missing(session, own, DIM, [DAY, VISIT])
    names = ["day.name", "day.n", "visit.embedding", "visit.pages"]
    added = [*(f"column {name}" for name in names), "index visit_pages"]
    assert list(found) == added == add(own, DAY, VISIT)
    assert add(own, DAY, VISIT) == []


def test_column_of_another_type_or_key_is_refused(own: CassandraSettings) -> None:
    add(own, DAY, VISIT)
    with pytest.raises(ConfigError, match=r"visit.embedding .*vector<float, 4>.*vector<float, 5>"):
        create_schema(own, DIM + 1, [VISIT])
    wrong = {
        "n": DAY._replace(columns=DAY.columns | {"n": Column("n", "bigint")}),
        "name": DAY._replace(columns=DAY.columns | {"name": Column("name", "text")}),
        "user": DAY._replace(clustering={}),
        "page": DAY._replace(
            columns=DAY.columns | {"page": Column("page", "text")},
            clustering={"user": "ASC", "page": "ASC"},
        ),
    }
    for name, changed in wrong.items():
        with pytest.raises(ConfigError, match=f"holds day.{name} as"):
            add(own, changed)


def test_setup_goes_on_after_one_that_was_killed_with_the_lease(own: CassandraSettings) -> None:
    add(own, DAY)
    with open_session(own) as session:
        assert take(session, SCOPE, "killed", None, ttl_s=3) == "killed"
    assert add(own, DAY, VISIT, lock_ttl_s=2) == NAMES[1:]


def test_lease_that_another_process_keeps_is_an_error(own: CassandraSettings) -> None:
    with open_session(own) as session, lock(session, SCOPE, 600):
        assert take(session, SCOPE, "another", None, ttl_s=600) != "another"
        with pytest.raises(ServiceError, match=r"-.*holds the lease of tables.* ends 1 s after"):
            add(own, DAY, lock_ttl_s=1)
    assert add(own, DAY) == ["table day"]  # it was given back


def test_process_that_has_lost_the_lease_stops(own: CassandraSettings, executed) -> None:
    with open_session(own) as session:

        def steal(statement: str) -> None:
            if " day " in statement.replace(".", " "):
                session.execute(f"UPDATE chore SET holder = 'another' WHERE scope = '{SCOPE}'")

        executed(steal)
        with pytest.raises(ServiceError, match="another process has taken the lease"):
            add(own, DAY, VISIT)
        session.execute("DELETE holder FROM chore WHERE scope = %s", (SCOPE,))
    assert add(own, DAY, VISIT) == NAMES[1:]


def test_refused_statement_is_named_and_the_next_setup_goes_on(own: CassandraSettings) -> None:
    refused = VISIT._replace(options=("no_such_option = 1",))
    with pytest.raises(ServiceError, match=r"table visit: .*no_such_option.*Remove the cause"):
        add(own, DAY, refused)
    assert add(own, DAY, VISIT) == NAMES[1:]


def test_names_of_missing_tables_and_indexes_are_found(
    own: CassandraSettings, settings: CassandraSettings, session: Session
) -> None:
    assert missing_names(session, settings.keyspace) == []
    missing = missing_names(session, own.keyspace)
    assert "chore" not in missing and {"user_profile", "user_lookalike_segments"} < {*missing}
