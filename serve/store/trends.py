"""The counts of the input topic with their expected ranges, computed in threads."""

from __future__ import annotations

from cassandra.cluster import Session

from liveprofile.config import Settings
from liveprofile.trends.count_store import read_counts, read_last_chunk
from liveprofile.trends.counts import SPANS_MS, Series
from liveprofile.trends.points import HISTORY_MS, Metric, points
from liveprofile.trends.update import complete_until_ms
from serve.store.link import CassandraLink
from serve.store.protocol import TrendPoints


class CassandraTrends:
    """The method of serve.store.protocol.Store about trends."""

    def __init__(self, link: CassandraLink, settings: Settings):
        self._link, self._settings = link, settings

    async def trend(
        self, series: Series, span: str, metric: Metric, count: int
    ) -> TrendPoints | None:
        topic = self._settings.topics.events
        lateness_ms = self._settings.window.out_of_orderness_ms

        def read(session: Session) -> TrendPoints | None:
            chunk = read_last_chunk(session, topic)
            until_ms = chunk and complete_until_ms(chunk, lateness_ms)
            if until_ms is None:
                return None
            since_ms = until_ms - count * SPANS_MS[span]
            counts = read_counts(session, topic, span, series, since_ms - HISTORY_MS, until_ms)
            return TrendPoints(until_ms, points(counts, span, metric, since_ms, until_ms)[-count:])

        return await self._link.in_thread(read)
