"""Connections to Cassandra for the job's sinks, the readers and the command line."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from cassandra import (
    ConsistencyLevel,
    DriverException,
    OperationTimedOut,
    ProtocolVersion,
    Timeout,
    Unavailable,
)
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import (
    EXEC_PROFILE_DEFAULT,
    Cluster,
    ExecutionProfile,
    NoHostAvailable,
    Session,
)
from cassandra.policies import (
    ConstantReconnectionPolicy,
    DCAwareRoundRobinPolicy,
    TokenAwarePolicy,
)
from cassandra.protocol import ErrorMessage, IsBootstrappingErrorMessage, OverloadedErrorMessage

from liveprofile.errors import ConfigError, ServiceError, ServiceUnavailableError
from liveprofile.retry import until_deadline
from liveprofile.settings import CassandraSettings

_UNAVAILABLE = (
    NoHostAvailable,
    OperationTimedOut,
    Timeout,
    Unavailable,
    IsBootstrappingErrorMessage,
    OverloadedErrorMessage,
)
RECONNECT_DELAY_S = 1.0
CONNECT_TIMEOUT_S = 5.0
HEARTBEAT_S = 10.0


def connect(settings: CassandraSettings, *, use_keyspace: bool = True) -> Session:
    """A session of a new cluster object that uses the keyspace; `close` ends both.

    Statements run with the consistency and the request timeout of the settings.
    A node that does not answer in time is asked again until the deadline of liveprofile.retry; one
    that refuses the connection is not.
    Raises ServiceError if no node answers or the keyspace is missing, ConfigError for a bad CA
    file, certificate or key.
    """
    return until_deadline(lambda: _connect(settings, use_keyspace))


def _connect(settings: CassandraSettings, use_keyspace: bool) -> Session:
    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(settings.local_dc)),
        consistency_level=ConsistencyLevel.name_to_value[settings.consistency],
        # A conditional write must not wait for another data centre.
        serial_consistency_level=ConsistencyLevel.LOCAL_SERIAL,
        request_timeout=settings.request_timeout_ms / 1000,
    )
    cluster = Cluster(
        list(settings.contact_points),
        port=settings.port,
        # Vectors need Cassandra 5, which supports version 5, so the driver need not negotiate.
        protocol_version=ProtocolVersion.V5,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        auth_provider=_credentials(settings),
        ssl_context=tls_context(settings),
        # Constant, because an exponential delay can last long after a node is back.
        reconnection_policy=ConstantReconnectionPolicy(RECONNECT_DELAY_S, max_attempts=None),
        connect_timeout=CONNECT_TIMEOUT_S,
        control_connection_timeout=CONNECT_TIMEOUT_S,
        idle_heartbeat_interval=HEARTBEAT_S,
        idle_heartbeat_timeout=HEARTBEAT_S,
        compression=False,
        # Nagle's algorithm delays the last bytes of a batch until the bytes before them are
        # acknowledged, which takes up to 40 ms.
        sockopts=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        monitor_reporting_enabled=False,
        application_name="liveprofile",
    )
    try:
        session = cluster.connect()
        if use_keyspace:
            if settings.keyspace not in cluster.metadata.keyspaces:
                raise ServiceError(
                    f"Cassandra at {address(settings)} has no keyspace {settings.keyspace}:"
                    " `liveprofile job setup` creates it"
                )
            session.set_keyspace(settings.keyspace)
    except (NoHostAvailable, DriverException, ErrorMessage, OSError) as error:
        cluster.shutdown()
        kind = ServiceUnavailableError if _timed_out(error) else ServiceError
        raise kind(
            f"Cassandra at {address(settings)} (data centre {settings.local_dc}):"
            f" {describe_error(error)}"
        ) from None
    except ServiceError:
        cluster.shutdown()
        raise
    return session


def close(session: Session) -> None:
    """Ends the session and its cluster object."""
    session.cluster.shutdown()


@contextmanager
def open_session(settings: CassandraSettings, *, use_keyspace: bool = True) -> Iterator[Session]:
    """Context manager around `connect` and `close`. Raises what `connect` raises."""
    session = connect(settings, use_keyspace=use_keyspace)
    try:
        yield session
    finally:
        close(session)


def is_unavailable(error: BaseException) -> bool:
    """True if the statement may succeed when it is sent again."""
    return isinstance(error, _UNAVAILABLE)


def _timed_out(error: BaseException) -> bool:
    causes = error.errors.values() if isinstance(error, NoHostAvailable) else [error]
    return any(isinstance(cause, (OperationTimedOut, TimeoutError)) for cause in causes)


def describe_error(error: BaseException) -> str:
    """A driver error as one line that names the cause."""
    if isinstance(error, NoHostAvailable):
        # The driver gives no error per node once it knows that every node is down.
        errors = error.errors.items() if isinstance(error.errors, dict) else ()
        causes = "; ".join(f"{host}: {' '.join(str(cause).split())}" for host, cause in errors)
        return f"no node answers ({causes or 'all are down'})"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def address(settings: CassandraSettings) -> str:
    """Contact points and port, for messages."""
    return f"{','.join(settings.contact_points)}:{settings.port}"


def _credentials(settings: CassandraSettings) -> PlainTextAuthProvider | None:
    if not settings.username:
        return None
    return PlainTextAuthProvider(settings.username, settings.password.get_secret_value())


def tls_context(settings: CassandraSettings) -> ssl.SSLContext | None:
    """None without a CA file, which means no TLS. Raises ConfigError for a bad file."""
    if not settings.ca_file:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"setting cassandra.ca_file = {settings.ca_file!r}: {error}") from None
    if settings.certificate_file:
        # Without a password, even an empty one, OpenSSL would ask for it on the terminal.
        password = settings.key_password.get_secret_value()
        try:
            context.load_cert_chain(settings.certificate_file, settings.key_file, password)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"settings cassandra.certificate_file = {settings.certificate_file!r},"
                f" key_file = {settings.key_file!r}: {error}"
            ) from None
    return context
