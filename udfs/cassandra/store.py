"""What a pipeline stores in Cassandra: how it opens and closes."""

from collections.abc import Callable
from typing import TypeVar

from cassandra.cluster import Session

from liveprofile.retry import until_deadline
from liveprofile.settings import CassandraSettings
from liveprofile.storage.connection import close, connect
from udfs.cassandra.executor import is_retryable

T = TypeVar("T")


class CassandraStore:
    """A session, and what a pipeline opens on it.

    session: closed by its owner; None: the store opens and closes its own.
    Statements of the set-up that time out are repeated for `cassandra.retry_timeout_ms`: otherwise
    one of them would restart the whole job. Then their last error is raised.
    Raises ServiceError if Cassandra does not answer or lacks the tables.
    """

    def __init__(self, settings: CassandraSettings, session: Session | None):
        self._owns_session = session is None
        self._settings = settings
        self.session = connect(settings) if session is None else session

    def _opened(self, prepare: Callable[[], T]) -> T:
        """The result of the set-up. Closes the store if it fails."""
        try:
            return until_deadline(prepare, self._settings.retry_timeout_ms / 1_000, is_retryable)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._owns_session:
            close(self.session)
