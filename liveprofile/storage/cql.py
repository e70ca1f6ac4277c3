"""Statements of the tables that people write: one way to run them, one way to fail."""

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
from liveprofile.storage.connection import describe


def execute(session: Session, query: str | Statement, values: Sequence[Any] = ()) -> ResultSet:
    """Raises ServiceError. A conditional write that timed out may have been applied."""
    try:
        return session.execute(query, values or None)
    except (NoHostAvailable, DriverException, ErrorMessage) as error:
        raise ServiceError(f"Cassandra, keyspace {session.keyspace}: {describe(error)}") from None


def execute_each(session: Session, query: str, keys: Iterable[str]) -> dict[str, ResultSet]:
    """The answer for each key, asked for at once. query: with one value to bind, `?`.

    Raises ServiceError.
    """
    wanted = list(dict.fromkeys(keys))
    if not wanted:
        return {}
    try:
        prepared = session.prepare(query)
        results = execute_concurrent_with_args(session, prepared, [(key,) for key in wanted])
    except (NoHostAvailable, DriverException, ErrorMessage) as error:
        raise ServiceError(f"Cassandra, keyspace {session.keyspace}: {describe(error)}") from None
    return {key: result.result_or_exc for key, result in zip(wanted, results, strict=True)}


def now_ms() -> int:
    return round(datetime.now(UTC).timestamp() * 1_000)


def from_ms(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1_000, UTC)


def to_ms(time: datetime) -> int:
    """Of the driver's times, which are UTC without saying so, or of a time with a zone."""
    return round(time.replace(tzinfo=time.tzinfo or UTC).timestamp() * 1_000)
