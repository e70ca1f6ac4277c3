"""CassandraProfileSink when the node is slow or down, or the keyspace does not fit."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from cassandra import InvalidRequest, OperationTimedOut
from cassandra.cluster import NoHostAvailable, Session

from liveprofile.errors import ConfigError, ServiceError, StoreError
from liveprofile.rows.profiles import PROFILE_DELTA
from liveprofile.rules.flags import FlagHistory, FlagQuery
from liveprofile.settings import CassandraSettings
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from liveprofile.storage.migrations import filled
from liveprofile.storage.schema import create_schema
from tests.support.rows.profile_rows import DIM, profile_row, write_and_flush
from udfs.profile.sink import CassandraProfileSink, ProfileSink

pytestmark = pytest.mark.services


def test_refused_write_raises_at_once_and_on_every_later_call(settings: CassandraSettings):
    own = settings.model_copy(update={"retry_timeout_ms": 60_000})
    with open_session(own) as session:
        sink = CassandraProfileSink(own, DIM, session)
        session.execute("DROP TABLE profile_delta", timeout=60)
        started_s = time.monotonic()
        try:
            with pytest.raises(StoreError, match=r"refused: InvalidRequest.*profile_delta"):
                write_and_flush(sink, profile_row())
            with pytest.raises(InvalidRequest, match="profile_delta"):
                CassandraProfileSink(own, DIM, session)
            assert time.monotonic() - started_s < 30
            with pytest.raises(StoreError, match="refused"):
                sink.flush()
            with pytest.raises(StoreError, match="refused"):
                sink.write([profile_row("another")])
        finally:
            [create] = PROFILE_DELTA.create()
            session.execute(filled(create, {"keyspace": own.keyspace}), timeout=60)


class Relay:
    """A TCP proxy for Cassandra that can hang, as a stopped node does, or refuse connections."""

    def __init__(self, node: tuple[str, int]):
        self._node = node
        self._open = threading.Event()
        self._open.set()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._start(self._accept, self._listener)

    @staticmethod
    def _start(target: Callable[..., None], *args: object) -> None:
        threading.Thread(target=target, args=args, daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._node)
                self._sockets += [client, server]
                self._start(self._copy, client, server)
                self._start(self._copy, server, client)

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):  # either end closed
            while data := source.recv(65_536):
                self._open.wait()
                target.sendall(data)
        target.close()

    def hang(self) -> None:
        self._open.clear()

    def resume(self) -> None:
        self._open.set()

    def refuse(self) -> None:
        # A blocked accept() keeps a listener alive unless it is shut down too.
        for sock in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):  # no longer connected
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self._sockets.clear()

    def listen_again(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._start(self._accept, self._listener)


@pytest.fixture
def relay(settings: CassandraSettings) -> Iterator[Relay]:
    relay = Relay((settings.contact_points[0], settings.port))
    yield relay
    relay.resume()
    relay.refuse()


def relayed(settings: CassandraSettings, relay: Relay, **changes: object) -> CassandraSettings:
    return settings.model_copy(
        update={"contact_points": ("127.0.0.1",), "port": relay.port, "request_timeout_ms": 1_000}
        | changes
    )


def later(seconds: float, action: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def write_slowly(sink: ProfileSink, user_prefix: str, batches: int) -> set[str]:
    """Writes and flushes ten rows at a time; returns the users whose rows are acknowledged."""
    written = set()
    for batch in range(batches):
        rows = [profile_row(f"{user_prefix}{batch}-{n}") for n in range(10)]
        write_and_flush(sink, *rows)
        written |= {row.user_id for row in rows}
        time.sleep(0.05)
    return written


@pytest.mark.parametrize(
    ("fault", "repair", "seconds"), [("hang", "resume", 10), ("refuse", "listen_again", 5)]
)
def test_acknowledged_rows_survive_an_outage_of_the_node(
    fault: str,
    repair: str,
    seconds: float,
    settings: CassandraSettings,
    session: Session,
    relay: Relay,
):
    sink = CassandraProfileSink(relayed(settings, relay), DIM)
    started_s = time.monotonic()
    timers = [later(0.5, getattr(relay, fault)), later(0.5 + seconds, getattr(relay, repair))]
    written = write_slowly(sink, fault, 40)

    assert time.monotonic() - started_s > seconds, "the writes ended before the outage"
    assert all(queries.profile(session, user_id) for user_id in written)
    sink.close()
    for timer in timers:
        timer.join()


@pytest.mark.parametrize(
    "read",
    [
        lambda sink: sink.snoozed(["u"]) == {"u": {}},
        lambda sink: sink.flag_history([FlagQuery("u", "rule", 1)]) == [FlagHistory()],
    ],
    ids=["snoozed", "flag_history"],
)
def test_read_waits_until_the_node_is_up(
    read: Callable[[ProfileSink], bool], settings: CassandraSettings, relay: Relay
):
    sink = CassandraProfileSink(relayed(settings, relay), DIM)
    relay.refuse()
    repair = later(2, relay.listen_again)
    assert read(sink)
    sink.close()
    repair.join()


@pytest.mark.parametrize("fault", ["hang", "refuse"])
def test_outage_longer_than_retry_timeout_raises(
    fault: str, settings: CassandraSettings, relay: Relay
):
    sink = CassandraProfileSink(relayed(settings, relay, retry_timeout_ms=2_000), DIM)
    getattr(relay, fault)()
    started_s = time.monotonic()
    with pytest.raises(StoreError, match=r"write kept failing for \d+\.\d s .*= 2000\): "):
        write_and_flush(sink, profile_row())
    assert time.monotonic() - started_s < 8
    relay.resume()
    sink.close()


def test_sink_is_set_up_when_the_node_answers_again(settings: CassandraSettings, relay: Relay):
    own = relayed(settings, relay)
    with open_session(own) as session:
        relay.hang()
        repair = later(3, relay.resume)
        sink = CassandraProfileSink(own, DIM, session)
        write_and_flush(sink, profile_row())
        repair.join()


def test_set_up_raises_if_the_node_hangs_for_longer_than_retry_timeout(
    settings: CassandraSettings, relay: Relay
):
    own = relayed(settings, relay, retry_timeout_ms=2_000)
    with open_session(own) as session:
        relay.hang()
        started_s = time.monotonic()
        with pytest.raises((OperationTimedOut, NoHostAvailable)):
            CassandraProfileSink(own, DIM, session)
        assert 1.5 < time.monotonic() - started_s < 20
        relay.resume()


def test_unreachable_node_raises(settings: CassandraSettings):
    with pytest.raises(ServiceError, match=r"Cassandra at 127\.0\.0\.1:1 .*refused"):
        CassandraProfileSink(settings.model_copy(update={"port": 1}), DIM)


def test_missing_keyspace_raises(settings: CassandraSettings):
    with pytest.raises(
        ServiceError, match="no keyspace absent: `liveprofile job submit` creates it"
    ):
        CassandraProfileSink(settings.model_copy(update={"keyspace": "absent"}), DIM)


def test_tables_for_another_embedding_size_raise(settings: CassandraSettings, session: Session):
    for attempt in (
        lambda: CassandraProfileSink(settings, DIM + 1, session),
        lambda: create_schema(settings, DIM + 1),
    ):
        with pytest.raises(ConfigError, match=r"vector<float, 4> .* vector<float, 5>"):
            attempt()
    sink = CassandraProfileSink(settings, DIM, session)
    with pytest.raises(ValueError, match=r"shape \(5,\): the tables need \(4,\)"):
        sink.write([profile_row(embedding=np.zeros(DIM + 1, np.float32))])
