"""Observes the progress of the demo's job in Cassandra and in the alert topic.

The reads only feed the display. A service that does not answer in time is skipped until the next
look.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, NamedTuple

import orjson
from cassandra.cluster import Session

from cli.alerts import deduplicate
from liveprofile.alerts.cloud_events import ALERT_TYPE, is_type
from liveprofile.errors import ServiceUnavailableError
from liveprofile.kafka import offsets
from liveprofile.kafka.records import read_topic
from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import Settings
from liveprofile.storage import queries
from liveprofile.storage.cql import execute
from liveprofile.storage.queries import StoredDelta

SHOWN = 5
RATE_OVER_S = 6.0
READ_EVERY_S = 2.0


class Snapshot(NamedTuple):
    read: int  # records covered by the job's last checkpoint, heartbeats included
    used: int  # events in stored profiles
    profiles: int  # stored, one for each user and window
    profiles_per_s: float
    closed_ms: int | None  # the latest window end with a stored profile
    latest: list[StoredDelta]  # newest first
    flags: int
    latest_flags: list[dict[str, Any]]  # alerts, newest first


class _UserRow(NamedTuple):
    window_end_ms: int
    events: int
    windows: int


class JobWatcher:
    """Each `look` reads one row for each user: the demo has few users and many windows."""

    def __init__(self, session: Session, settings: Settings):
        self._session, self._settings = session, settings
        self.skipped = 0  # looks during which a service did not answer
        self._snapshot = Snapshot(0, 0, 0, 0.0, None, [], 0, [])
        self._rows: dict[str, _UserRow] = {}
        self._latest: list[StoredDelta] = []
        self._places: dict[int, int] = {}
        self._seen: set[str] = set()
        self._alerts: list[dict[str, Any]] = []
        self._read, self._read_s = 0, -READ_EVERY_S
        self._pace: deque[tuple[float, int]] = deque()

    def look(self) -> Snapshot:
        """The present state; the last one if a service does not answer. Raises ServiceError."""
        try:
            self._snapshot = self._read_snapshot()
        except ServiceUnavailableError:
            self.skipped += 1
        return self._snapshot

    def _read_snapshot(self) -> Snapshot:
        # Offsets first: what a checkpoint covers is stored and sent, so the later reads see it.
        read = self._records_read()
        rows = self._read_rows()
        self._read_alerts()
        changed = [user for user, row in rows.items() if row != self._rows.get(user)]
        self._rows = rows
        newest = sorted(changed, key=lambda user: -rows[user].window_end_ms)[:SHOWN]
        if newest:
            found = [delta for user in newest for delta in queries.deltas(self._session, user, 1)]
            kept = [delta for delta in self._latest if delta.user_id not in newest]
            self._latest = [*found, *kept][:SHOWN]
        profiles = sum(row.windows for row in rows.values())
        return Snapshot(
            read=read,
            used=sum(row.events for row in rows.values()),
            profiles=profiles,
            profiles_per_s=self._rate(profiles),
            closed_ms=max((row.window_end_ms for row in rows.values()), default=None),
            latest=self._latest,
            flags=len(self._alerts),
            latest_flags=self._alerts[: -SHOWN - 1 : -1],
        )

    def _read_rows(self) -> dict[str, _UserRow]:
        query = (
            "SELECT user_id, to_unix_timestamp(window_end) AS window_end_ms, events_total, profile"
            " FROM user_profile"
        )
        return {
            row.user_id: _UserRow(
                row.window_end_ms,
                row.events_total,
                int(orjson.loads(row.profile)["features"]["windows"]),
            )
            for row in execute(self._session, query)
        }

    def _records_read(self) -> int:
        """Reads offsets less often, since they change with checkpoints only."""
        now_s = time.monotonic()
        if now_s - self._read_s >= READ_EVERY_S:
            topic = self._settings.topics.events
            self._read = sum(offsets.committed_offsets(self._settings, topic).values())
            self._read_s = now_s
        return self._read

    def _read_alerts(self) -> None:
        topic = self._settings.topics.alerts
        spans = {
            partition: PartitionRange(self._places.get(partition, held.first), held.end)
            for partition, held in offsets.partition_ranges(self._settings, topic).items()
        }
        new = deduplicate(read_topic(self._settings, topic, spans), self._seen)
        # A drift alert has no user.
        flags = (alert for alert in new if is_type(alert["type"], ALERT_TYPE))
        self._alerts += sorted(flags, key=lambda alert: alert["time"])
        self._places = {partition: span.end for partition, span in spans.items()}

    def _rate(self, profiles: int) -> float:
        now_s = time.monotonic()
        self._pace.append((now_s, profiles))
        while now_s - self._pace[0][0] > RATE_OVER_S:
            self._pace.popleft()
        then_s, then = self._pace[0]
        return (profiles - then) / (now_s - then_s) if now_s > then_s else 0.0
