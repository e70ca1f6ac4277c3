"""Leases in the table `chore`, for what one process at a time does. They end by themselves."""

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from cassandra import ConsistencyLevel
from cassandra.cluster import Session
from cassandra.query import SimpleStatement

from liveprofile.errors import ServiceError
from liveprofile.retry import until_deadline
from liveprofile.storage.cql import execute

_POLL_S = 0.5


def process_name() -> str:
    """The name of a holder: host and process, another one at each call."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def take(
    session: Session, scope: str, holder: str | None, expected: str | None, ttl_s: int
) -> str | None:
    """Gives the lease to a holder if `expected` has it (None: nobody); returns who has it then.

    Raises ServiceError; then the lease may have been given.
    """
    update = f"UPDATE chore USING TTL {ttl_s} SET holder = %s WHERE scope = %s IF holder = %s"
    # SERIAL, not LOCAL_SERIAL: one process in all data centres.
    statement = SimpleStatement(update, serial_consistency_level=ConsistencyLevel.SERIAL)
    result = execute(session, statement, (holder, scope, expected))
    if result.was_applied:
        return holder
    return getattr(result.one(), "holder", None)  # a row that has expired has no columns


@contextmanager
def lock(session: Session, scope: str, ttl_s: int) -> Iterator[Callable[[], None]]:
    """Holds a lease inside the block, and yields what renews it for ttl_s seconds.

    Raises ServiceError if another process holds it for 2 ttl_s, or has taken it at a renewal.
    """
    own, deadline_s = process_name(), time.monotonic() + 2 * ttl_s

    def ask(holder: str | None, expected: str | None) -> str | None:
        return until_deadline(lambda: take(session, scope, holder, expected, ttl_s))

    def renew() -> None:
        if ask(own, own) != own:
            raise ServiceError(
                f"another process has taken the lease of {scope}, because this one was stopped for"
                f" more than {ttl_s} s: run the command again"
            )

    while (other := ask(own, None)) != own:
        if time.monotonic() > deadline_s:
            raise ServiceError(
                f"{other} holds the lease of {scope}. If that process is dead, the lease ends"
                f" {ttl_s} s after its last statement"
            )
        time.sleep(_POLL_S)
    try:
        yield renew
    finally:
        with suppress(ServiceError):  # the lease ends by itself
            ask(None, own)
