"""Execution of CQL statements with errors as ServiceError, and conversion of timestamps."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

from cassandra import DriverException
from cassandra.cluster import NoHostAvailable, ResultSet, Session
from cassandra.concurrent import ExecutionResult, execute_concurrent
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
    """Prepares a statement, again if Cassandra does not answer in time (liveprofile/retry.py).

    Raises ServiceError, also if the keyspace lacks the table.
    """

    def attempt() -> PreparedStatement:
        try:
            return session.prepare(query)
        except (NoHostAvailable, DriverException, ErrorMessage) as error:
            raise service_error(session, error) from None

    return until_deadline(attempt)


def prepare_once(session: Session, query: str) -> PreparedStatement:
    """As `prepare`, once for each session: for few queries that are executed for many users.

    May be called in several threads; two may prepare the same query. Raises ServiceError.
    """
    known = _prepared.setdefault(session, {})
    if query not in known:
        known[query] = prepare(session, query)
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

    Those that Cassandra does not answer in time are sent again. Returns the result by key. Raises
    ServiceError.
    """
    unanswered = list(dict.fromkeys(keys))
    if not unanswered:
        return {}
    order, prepared = list(unanswered), prepare(session, query)
    found: dict[str, ResultSet] = {}

    def attempt() -> None:
        statements = [(prepared, (key,)) for key in unanswered]
        results = _execute_all(session, statements, KEYS_IN_FLIGHT)
        answers = list(zip(unanswered, results, strict=True))
        found.update((key, each.result_or_exc) for key, each in answers if each.success)
        unanswered[:] = [key for key, each in answers if not each.success]
        _raise_first(session, results)

    until_deadline(attempt)
    return {key: found[key] for key in order}


def write_all(session: Session, statements: Iterable[Statement]) -> int:
    """Executes statements that may be executed twice; returns their number.

    At most MAX_IN_FLIGHT are under way. Those that Cassandra does not answer in time are sent
    again (liveprofile/retry.py). Raises ServiceError.
    """
    remaining, count = iter(statements), 0
    while part := list(itertools.islice(remaining, WRITE_PART)):
        count += len(part)
        until_deadline(lambda unanswered=part: _write_part(session, unanswered))
    return count


def _write_part(session: Session, unanswered: list[Statement]) -> None:
    """Removes the statements from the list that Cassandra has executed. Raises ServiceError."""
    results = _execute_all(session, [(each, None) for each in unanswered], MAX_IN_FLIGHT)
    unanswered[:] = [
        statement
        for statement, result in zip(unanswered, results, strict=True)
        if not result.success
    ]
    _raise_first(session, results)


def _execute_all(
    session: Session,
    statements: Sequence[tuple[Statement, Sequence[Any] | None]],
    concurrency: int,
) -> list[ExecutionResult]:
    """The result or the error of each statement. Raises ServiceError."""
    try:
        return execute_concurrent(
            session, statements, concurrency=concurrency, raise_on_first_error=False
        )
    except (NoHostAvailable, DriverException, ErrorMessage) as error:
        raise service_error(session, error) from None


def _raise_first(session: Session, results: Iterable[ExecutionResult]) -> None:
    """Raises the first error as ServiceError, if there is one that will not pass, that one."""
    errors = [each.result_or_exc for each in results if not each.success]
    if errors:
        lasting = (each for each in errors if not is_unavailable(each))
        raise service_error(session, next(lasting, errors[0])) from None


def now_ms() -> int:
    """The present time in epoch milliseconds."""
    return round(datetime.now(UTC).timestamp() * 1_000)


def from_ms(time_ms: int) -> datetime:
    """Epoch milliseconds as a UTC datetime."""
    return datetime.fromtimestamp(time_ms / 1_000, UTC)


def to_ms(time: datetime) -> int:
    """A datetime in epoch milliseconds; a naive one, as the driver returns it, is UTC."""
    return round(time.replace(tzinfo=time.tzinfo or UTC).timestamp() * 1_000)
