"""The store on Cassandra."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from liveprofile.config import Settings
from serve.store.link import CassandraLink
from serve.store.reads import CassandraReads


class CassandraStore(CassandraReads):
    """Implements serve.store.protocol.Store."""

    def __init__(self, settings: Settings):
        self.link = CassandraLink(settings.cassandra, settings.serve.deadline_ms)
        super().__init__(self.link)

    def running(self) -> AbstractAsyncContextManager[None]:
        """Connects in the background for as long as it is open."""
        return self.link.running()
