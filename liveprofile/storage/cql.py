"""Execution of CQL statements with errors as ServiceError, and conversion of timestamps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from cassandra import DriverException
from cassandra.cluster import NoHostAvailable, ResultSet, Session
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.protocol import ErrorMessage
from cassandra.query import Statement

from liveprofile.errors import ServiceError
from liveprofile.storage.connection import describe_error


def execute(session: Session, query: str | Statement, values: Sequence[Any] = ()) -> ResultSet:
    """Executes one statement.

    Raises ServiceError. A conditional write that timed out may have been applied.
    """
    try:
        return session.execute(query, values or None)
    except (NoHostAvailable, DriverException, ErrorMessage) as error:
        raise ServiceError(
            f"Cassandra, keyspace {session.keyspace}: {describe_error(error)}"
        ) from None


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
        raise ServiceError(
            f"Cassandra, keyspace {session.keyspace}: {describe_error(error)}"
        ) from None
    return {key: result.result_or_exc for key, result in zip(distinct, results, strict=True)}


def now_ms() -> int:
    """The present time in epoch milliseconds."""
    return round(datetime.now(UTC).timestamp() * 1_000)


def from_ms(time_ms: int) -> datetime:
    """Epoch milliseconds as a UTC datetime."""
    return datetime.fromtimestamp(time_ms / 1_000, UTC)


def to_ms(time: datetime) -> int:
    """A datetime in epoch milliseconds; a naive one, as the driver returns it, is UTC."""
    return round(time.replace(tzinfo=time.tzinfo or UTC).timestamp() * 1_000)
