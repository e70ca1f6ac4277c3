"""Execution of CQL statements with errors as ServiceError, and conversion of timestamps."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

from cassandra import DriverException
from cassandra.cluster import NoHostAvailable, ResultSet, Session
from cassandra.concurrent import execute_concurrent
from cassandra.protocol import ErrorMessage
from cassandra.query import PreparedStatement, Statement

from liveprofile.errors import ServiceError, ServiceUnavailableError
from liveprofile.retry import until_deadline
from liveprofile.storage.connection import describe_error, is_unavailable

# Statements that `write_all` holds at once.
WRITE_PART = 1_000
KEYS_IN_FLIGHT = 100
# Concurrent requests of a worker or a command, and the bytes of an unlogged batch.
MAX_IN_FLIGHT, MAX_BATCH_BYTES = 32, 40_000

_prepared: WeakKeyDictionary[Session, dict[str, PreparedStatement]] = WeakKeyDictionary()


def execute(
    session: Session, query: str | Statement, values: Sequence[Any] = (), **options: Any
) -> ResultSet:
    """Executes one statement, once. `options`: those of the driver's Session.execute.

    Raises ServiceError. A conditional write that timed out may have been applied.
    """
    try:
        return session.execute(query, values or None, **options)
    except (NoHostAvailable, DriverException, ErrorMessage) as error:
        raise service_error(session, error) from None


def read(
    session: Session, query: str | Statement, values: Sequence[Any] = (), **options: Any
) -> ResultSet:
    """Executes a SELECT, again if Cassandra does not answer in time (liveprofile/retry.py).

    Raises ServiceError.
    """
    return until_deadline(lambda: execute(session, query, values, **options))


def prepare(session: Session, query: str) -> PreparedStatement:
    """Prepares a statement, once for each session: for few queries that are executed often.

    Again if Cassandra does not answer in time (liveprofile/retry.py). May be called in several
    threads; two may prepare the same query. Raises ServiceError, also if the keyspace lacks the
    table.
    """

    def attempt() -> PreparedStatement:
        try:
            return session.prepare(query)
        except (NoHostAvailable, DriverException, ErrorMessage) as error:
            raise service_error(session, error) from None

    known = _prepared.setdefault(session, {})
    if query not in known:
        known[query] = until_deadline(attempt)
    return known[query]


def read_pages(session: Session, query: Statement, values: Sequence[Any] = ()) -> Iterator[Any]:
    """Yields the rows of a SELECT page by page, each page read as by `read`."""
    state: bytes | None = None
    while True:
        page = read(session, query, values, paging_state=state)
        yield from page.current_rows
        state = page.paging_state
        if state is None:
            return


def service_error(session: Session, error: BaseException) -> ServiceError:
    """An error of the driver as ServiceError, ServiceUnavailableError if it may pass."""
    kind = ServiceUnavailableError if is_unavailable(error) else ServiceError
    return kind(f"Cassandra, keyspace {session.keyspace}: {describe_error(error)}")


def execute_per_key(session: Session, query: str, keys: Iterable[str]) -> dict[str, ResultSet]:
    """Executes a SELECT with one bind marker `?` concurrently for each distinct key.

    Returns the result by key. Raises ServiceError.
    """
    distinct = list(dict.fromkeys(keys))
    if not distinct:
        return {}
    prepared = prepare(session, query)
    results = _execute_all(session, [(prepared, (key,)) for key in distinct], KEYS_IN_FLIGHT)
    return dict(zip(distinct, results, strict=True))


def write_all(session: Session, statements: Iterable[Statement]) -> int:
    """Executes statements that may be executed twice; returns their number.

    At most MAX_IN_FLIGHT are under way. Raises ServiceError.
    """
    remaining, count = iter(statements), 0
    while part := [(each, None) for each in itertools.islice(remaining, WRITE_PART)]:
        _execute_all(session, part, MAX_IN_FLIGHT)
        count += len(part)
    return count


def _execute_all(
    session: Session,
    statements: Sequence[tuple[Statement, Sequence[Any] | None]],
    concurrency: int,
) -> list[Any]:
    """The result of each statement.

    Those that Cassandra does not answer in time are sent again (liveprofile/retry.py). Raises the
    first error as ServiceError; if there is one that will not pass, that one.
    """
    found: dict[int, Any] = {}

    def attempt() -> None:
        missing = [number for number in range(len(statements)) if number not in found]
        asked = [statements[number] for number in missing]
        try:
            answers = execute_concurrent(session, asked, concurrency, raise_on_first_error=False)
        except (NoHostAvailable, DriverException, ErrorMessage) as error:
            raise service_error(session, error) from None
        errors = []
        for number, (success, result) in zip(missing, answers, strict=True):
            if success:
                found[number] = result
            else:
                errors.append(result)
        if errors:
            lasting = (each for each in errors if not is_unavailable(each))
            raise service_error(session, next(lasting, errors[0])) from None

    until_deadline(attempt)
    return [found[number] for number in range(len(statements))]


def now_ms() -> int:
    """The present time in epoch milliseconds."""
    return round(datetime.now(UTC).timestamp() * 1_000)


def from_ms(time_ms: int) -> datetime:
    """Epoch milliseconds as a UTC datetime."""
    return datetime.fromtimestamp(time_ms / 1_000, UTC)


def to_ms(time: datetime) -> int:
    """A datetime in epoch milliseconds; a naive one, as the driver returns it, is UTC."""
    return round(time.replace(tzinfo=time.tzinfo or UTC).timestamp() * 1_000)
