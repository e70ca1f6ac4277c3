"""Observes the progress of the demo's job in Cassandra and in the alert topic.

The reads only feed the display. A service that does not answer in time is skipped until the next
look.
"""

from __future__ import annotations

import time
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
QUERY = (
    "SELECT user_id, to_unix_timestamp(window_end) AS window_end_ms, events_total, profile"
    " FROM user_profile"
)


class Snapshot(NamedTuple):
    read: int  # records covered by the job's last checkpoint, heartbeats included
    used: int  # events in stored profiles
    profiles: int  # stored, one for each user and window
    profiles_per_s: float  # since the first look
    closed_ms: int | None  # the latest window end with a stored profile
    latest: list[StoredDelta]  # newest first
    flags: int
    latest_flags: list[dict[str, Any]]  # alerts, newest first


class JobWatcher:
    """Each `look` reads one row for each user: the demo has few users and many windows."""

    def __init__(self, session: Session, settings: Settings):
        self._session, self._settings = session, settings
        self.skipped = 0  # looks during which a service did not answer
        self._snapshot = Snapshot(0, 0, 0, 0.0, None, [], 0, [])
        self._ends_ms: dict[str, int] = {}  # of each user's last window
        self._places: dict[int, int] = {}
        self._seen: set[str] = set()
        self._alerts: list[dict[str, Any]] = []
        self._first: tuple[float, int] | None = None  # time and profiles of the first look

    def look(self) -> Snapshot:
        """The present state; the last one if a service does not answer. Raises ServiceError."""
        try:
            self._snapshot = self._read_snapshot()
        except ServiceUnavailableError:
            self.skipped += 1
        return self._snapshot

    def _read_snapshot(self) -> Snapshot:
        # Offsets first: what a checkpoint covers is stored and sent, so the later reads see it.
        topic = self._settings.topics.events
        read = sum(offsets.committed_offsets(self._settings, topic).values())
        rows = list(execute(self._session, QUERY))
        self._read_alerts()
        ends_ms = {row.user_id: row.window_end_ms for row in rows}
        changed = [user for user, end_ms in ends_ms.items() if end_ms != self._ends_ms.get(user)]
        newest = sorted(changed, key=lambda user: -ends_ms[user])[:SHOWN]
        found = [delta for user in newest for delta in queries.deltas(self._session, user, 1)]
        kept = [delta for delta in self._snapshot.latest if delta.user_id not in newest]
        self._ends_ms = ends_ms
        profiles = sum(int(orjson.loads(row.profile)["features"]["windows"]) for row in rows)
        now_s = time.monotonic()
        self._first = self._first or (now_s, profiles)
        seconds = max(now_s - self._first[0], 1e-9)
        return Snapshot(
            read=read,
            used=sum(row.events_total for row in rows),
            profiles=profiles,
            profiles_per_s=(profiles - self._first[1]) / seconds,
            closed_ms=max(ends_ms.values(), default=None),
            latest=[*found, *kept][:SHOWN],
            flags=len(self._alerts),
            latest_flags=self._alerts[: -SHOWN - 1 : -1],
        )

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
