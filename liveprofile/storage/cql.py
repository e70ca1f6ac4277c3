"""Execution of CQL statements with errors as ServiceError, and conversion of timestamps."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from cassandra import DriverException
from cassandra.cluster import NoHostAvailable, ResultSet, Session
from cassandra.concurrent import execute_concurrent, execute_concurrent_with_args
from cassandra.protocol import ErrorMessage
from cassandra.query import PreparedStatement, Statement

from liveprofile.errors import ServiceError, ServiceUnavailableError
from liveprofile.retry import until_deadline
from liveprofile.storage.connection import describe_error, is_unavailable

# Statements that `write_all` holds at once.
WRITE_PART = 1_000


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
    """Prepares a statement. Raises ServiceError, also if the keyspace lacks the table."""
    try:
        return session.prepare(query)
    except (NoHostAvailable, DriverException, ErrorMessage) as error:
        raise service_error(session, error) from None


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
    """Executes a query with one bind marker `?` concurrently for each distinct key.

    Returns the result by key. Raises ServiceError.
    """
    distinct = list(dict.fromkeys(keys))
    if not distinct:
        return {}
    try:
        prepared = session.prepare(query)
        results = execute_concurrent_with_args(session, prepared, [(key,) for key in distinct])
    except (NoHostAvailable, DriverException, ErrorMessage) as error:
        raise service_error(session, error) from None
    return {key: result.result_or_exc for key, result in zip(distinct, results, strict=True)}


def write_all(session: Session, statements: Iterable[Statement], concurrency: int) -> int:
    """Executes statements that may be executed twice; returns their number.

    At most `concurrency` are under way. Those that Cassandra does not answer in time are sent
    again (liveprofile/retry.py). Raises ServiceError.
    """
    remaining, count = iter(statements), 0
    while part := list(itertools.islice(remaining, WRITE_PART)):
        count += len(part)
        until_deadline(lambda unanswered=part: _write_part(session, unanswered, concurrency))
    return count


def _write_part(session: Session, unanswered: list[Statement], concurrency: int) -> None:
    """Removes the statements from the list that Cassandra has executed. Raises ServiceError."""
    try:
        results = execute_concurrent(
            session,
            [(statement, None) for statement in unanswered],
            concurrency=concurrency,
            raise_on_first_error=False,
        )
    except (NoHostAvailable, DriverException, ErrorMessage) as error:
        raise service_error(session, error) from None
    failed = [
        (statement, result.result_or_exc)
        for statement, result in zip(unanswered, results, strict=True)
        if not result.success
    ]
    unanswered[:] = [statement for statement, _ in failed]
    if failed:
        raise service_error(session, failed[0][1]) from None


def now_ms() -> int:
    """The present time in epoch milliseconds."""
    return round(datetime.now(UTC).timestamp() * 1_000)


def from_ms(time_ms: int) -> datetime:
    """Epoch milliseconds as a UTC datetime."""
    return datetime.fromtimestamp(time_ms / 1_000, UTC)


def to_ms(time: datetime) -> int:
    """A datetime in epoch milliseconds; a naive one, as the driver returns it, is UTC."""
    return round(time.replace(tzinfo=time.tzinfo or UTC).timestamp() * 1_000)
