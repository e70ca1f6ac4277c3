"""Awaits requests of the Cassandra driver, which answers by callbacks, also from its threads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from threading import get_ident
from typing import Any

from cassandra import DriverException
from cassandra.cluster import ExecutionProfile, NoHostAvailable, Session
from cassandra.protocol import ErrorMessage
from cassandra.query import BoundStatement

from liveprofile.storage.cql import service_error


async def fetch(
    session: Session, statement: BoundStatement, profile: ExecutionProfile
) -> Sequence[Any]:
    """The rows of a statement, at most one page. Raises ServiceError.

    The event loop only sends the request. If the caller is cancelled, the answer is dropped.
    """
    loop, loop_thread = asyncio.get_running_loop(), get_ident()
    answer: asyncio.Future[Sequence[Any]] = loop.create_future()

    def settle(rows: Sequence[Any] | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(rows or ())
        else:
            answer.set_exception(error)

    def wake(rows: Sequence[Any] | None, error: BaseException | None) -> None:
        if get_ident() == loop_thread:
            settle(rows, error)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(settle, rows, error)

    try:
        request = session.execute_async(statement, execution_profile=profile)
        request.add_callbacks(lambda rows: wake(rows, None), lambda error: wake(None, error))
        return await answer
    except (NoHostAvailable, DriverException, ErrorMessage) as error:
        raise service_error(session, error) from None
