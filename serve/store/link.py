"""The connection of the API to Cassandra: made when Cassandra is there, kept by the driver."""

import asyncio
import contextvars
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

from cassandra import DriverException
from cassandra.cluster import (
    EXEC_PROFILE_DEFAULT,
    ExecutionProfile,
    NoHostAvailable,
    Session,
)
from cassandra.protocol import ErrorMessage
from cassandra.query import BoundStatement, PreparedStatement, tuple_factory

from liveprofile import retry
from liveprofile.errors import LiveprofileError, ServiceUnavailableError
from liveprofile.settings import CassandraSettings
from liveprofile.storage import connection
from liveprofile.storage.cql import service_error
from serve.store.statements import CQL

log = logging.getLogger(__name__)

# An attempt costs about a tenth of a second of CPU time.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 5.0
# Cassandra must answer before the deadline of a request, so that the error names it.
SHARE_OF_DEADLINE = 0.8
# Of reads, and of writes, which no reader delays. More of them wait.
THREADS = 8

Result = TypeVar("Result")


class _Connected(NamedTuple):
    session: Session
    statements: dict[str, PreparedStatement]
    profile: ExecutionProfile  # rows are tuples: a named tuple would be defined for each answer


class Link:
    """Runs statements. Raises ServiceError, and ServiceUnavailableError while not connected."""

    def __init__(self, settings: CassandraSettings, deadline_ms: int):
        timeout_ms = min(settings.request_timeout_ms, round(SHARE_OF_DEADLINE * deadline_ms))
        self._settings = settings.model_copy(update={"request_timeout_ms": timeout_ms})
        self._deadline_s = timeout_ms / 1_000
        self._connected: _Connected | None = None
        self._reads = ThreadPoolExecutor(THREADS, thread_name_prefix="read")
        self._writes = ThreadPoolExecutor(THREADS, thread_name_prefix="write")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connects in the background, as often as it takes; the end closes the connection."""
        connecting = asyncio.create_task(self._connect_until_done())
        try:
            yield
        finally:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            self._reads.shutdown(cancel_futures=True)
            self._writes.shutdown(cancel_futures=True)
            if self._connected is not None:
                await asyncio.to_thread(connection.close, self._connected.session)

    def use(self, session: Session) -> None:
        """Uses a session that is there, instead of `running`."""
        self._connected = _connected(session)

    async def rows(self, statement: str, values: Sequence[Any] = ()) -> Sequence[tuple]:
        """The rows of a statement of statements.py, at most one page of the driver."""
        connected = self._require()
        bound = connected.statements[statement].bind(values)
        return await fetch(connected.session, bound, connected.profile)

    async def in_thread(self, work: Callable[[Session], Result], is_write: bool = False) -> Result:
        """Runs code that blocks. Its reads are not repeated beyond the deadline of a request.

        If the caller is cancelled, a read ends at its next statement; a write goes on.
        """
        session, given_up = self._require().session, threading.Event()

        def bounded() -> Result:
            with retry.default_deadline(self._deadline_s, retry.NEVER if is_write else given_up):
                return work(session)

        context = contextvars.copy_context()
        threads = self._writes if is_write else self._reads
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(threads, context.run, bounded)
        finally:
            given_up.set()

    def _require(self) -> _Connected:
        if self._connected is None:
            raise ServiceUnavailableError("not connected to Cassandra yet")
        return self._connected

    async def _connect_until_done(self) -> None:
        reported, pause_s = "", FIRST_PAUSE_S
        while self._connected is None:
            try:
                self._connected = await asyncio.to_thread(self._connect)
                log.info("connected to Cassandra at %s", connection.address(self._settings))
            except LiveprofileError as error:
                if str(error) != reported:
                    log.warning("not ready: %s", error)
                reported = str(error)
                await asyncio.sleep(pause_s)
                pause_s = min(1.5 * pause_s, LONGEST_PAUSE_S)

    def _connect(self) -> _Connected:
        with retry.default_deadline(0):
            session = connection.connect(self._settings)
        try:
            return _connected(session)
        except (NoHostAvailable, DriverException, ErrorMessage) as error:
            connection.close(session)
            raise service_error(session, error) from None


def _connected(session: Session) -> _Connected:
    profile = session.execution_profile_clone_update(
        EXEC_PROFILE_DEFAULT, row_factory=tuple_factory
    )
    # The errors of the driver pass: a table may be missing.
    statements = {name: session.prepare(cql) for name, cql in CQL.items()}
    return _Connected(session, statements, profile)


async def fetch(
    session: Session, statement: BoundStatement, profile: ExecutionProfile
) -> Sequence[Any]:
    """The rows of a statement, at most one page. Raises ServiceError.

    A thread of the driver reads the answer. If the caller is cancelled, it is dropped.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Sequence[Any]] = loop.create_future()

    def wake(settle: Callable[[Any], None], value: Any) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(lambda: answer.done() or settle(value))

    try:
        request = session.execute_async(statement, execution_profile=profile)
        request.add_callbacks(
            lambda rows: wake(answer.set_result, rows or ()),
            lambda error: wake(answer.set_exception, error),
        )
        return await answer
    except (NoHostAvailable, DriverException, ErrorMessage) as error:
        raise service_error(session, error) from None
