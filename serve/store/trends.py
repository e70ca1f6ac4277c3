"""The counts of the input topic with their expected ranges, computed in threads."""

from __future__ import annotations

from cassandra.cluster import Session

from liveprofile.settings import Settings
from liveprofile.trends.count_store import read_counts
from liveprofile.trends.counts import SPANS_MS, Series
from liveprofile.trends.points import HISTORY_MS, Metric, points
from liveprofile.trends.stored import StoredForecast, counted_until_ms, stored_forecast
from serve.store.link import CassandraLink
from serve.store.protocol import TrendPoints


class CassandraTrends:
    """The methods of serve.store.protocol.Store about trends."""

    def __init__(self, link: CassandraLink, settings: Settings):
        self._link, self._settings = link, settings

    async def trend(
        self, series: Series, span: str, metric: Metric, count: int
    ) -> TrendPoints | None:
        topic = self._settings.topics.events

        def read(session: Session) -> TrendPoints | None:
            until_ms = counted_until_ms(session, self._settings)
            if until_ms is None:
                return None
            since_ms = until_ms - count * SPANS_MS[span]
            counts = read_counts(session, topic, span, series, since_ms - HISTORY_MS, until_ms)
            return TrendPoints(until_ms, points(counts, span, metric, since_ms, until_ms)[-count:])

        return await self._link.in_thread(read)

    async def forecast(self, series: Series, metric: Metric) -> StoredForecast | None:
        def read(session: Session) -> StoredForecast | None:
            until_ms = counted_until_ms(session, self._settings)
            if until_ms is None:
                return None
            return stored_forecast(session, self._settings, series, metric, until_ms)

        return await self._link.in_thread(read)
