"""The store on Cassandra."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from liveprofile.config import Settings
from serve.store.link import CassandraLink
from serve.store.reads import CassandraReads
from serve.store.trends import CassandraTrends
from serve.store.writes import CassandraWrites


class CassandraStore(CassandraReads, CassandraTrends, CassandraWrites):
    """Implements serve.store.protocol.Store."""

    def __init__(self, settings: Settings):
        link = CassandraLink(settings.cassandra, settings.serve.deadline_ms)
        CassandraReads.__init__(self, link)
        CassandraTrends.__init__(self, link, settings)
        CassandraWrites.__init__(self, link, settings)

    def running(self) -> AbstractAsyncContextManager[None]:
        """Connects in the background for as long as it is open."""
        return self._link.running()
