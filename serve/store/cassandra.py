"""The store on Cassandra."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from liveprofile.settings import Settings
from serve.store.campaigns import CassandraCampaigns
from serve.store.definitions import CassandraDefinitions
from serve.store.link import CassandraLink
from serve.store.operations import CassandraOperations
from serve.store.privacy import CassandraPrivacy
from serve.store.reads import CassandraReads
from serve.store.rule_changes import CassandraRuleChanges
from serve.store.scans import CassandraScans
from serve.store.trends import CassandraTrends
from serve.store.writes import CassandraWrites


class CassandraStore(
    CassandraReads,
    CassandraTrends,
    CassandraScans,
    CassandraWrites,
    CassandraDefinitions,
    CassandraCampaigns,
    CassandraPrivacy,
    CassandraOperations,
    CassandraRuleChanges,
):
    """Implements serve.store.protocol.Store."""

    def __init__(self, settings: Settings):
        link = CassandraLink(settings.cassandra, settings.serve.deadline_ms)
        CassandraReads.__init__(self, link)
        CassandraTrends.__init__(self, link, settings)
        CassandraScans.__init__(self, settings)
        CassandraWrites.__init__(self, link, settings)
        CassandraDefinitions.__init__(self, link, settings)
        CassandraCampaigns.__init__(self, link, self, settings)
        CassandraPrivacy.__init__(self, link, settings)
        CassandraOperations.__init__(self, link, settings)
        CassandraRuleChanges.__init__(self, link, self, settings)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connects in the background for as long as it is open."""
        async with self._link.running():
            try:
                yield
            finally:
                self.stop_scans()
