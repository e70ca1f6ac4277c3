"""From the event that closes a window until a consumer has the segment changes of the window.

A change must be readable in Cassandra when its event arrives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.support.topic_listener import TopicListener
from liveprofile.alerts.cloud_events import to_rfc3339
from liveprofile.settings import Settings

READ_EVERY = 10  # reading all would delay the next events


class SegmentChangeListener(TopicListener):
    """Measures the changes of some windows.

    closes_s: window end in ms -> planned send time of the event that closes it, from the start.
    """

    def __init__(self, settings: Settings, closes_s: Mapping[int, float]):
        super().__init__(settings, settings.topics.segment_changes)
        self._closes_s = {to_rfc3339(end_ms): at_s for end_ms, at_s in closes_s.items()}
        self._select = self.session.prepare(
            "SELECT number FROM user_segment WHERE user_id = ? AND segment = ?"
        )
        self.latency_ms: list[float] = []
        self.read = self.not_readable = 0

    def handle(self, value: dict[str, Any], now_s: float) -> None:
        data = value["data"]
        closed_s = self._closes_s.get(data["window_end"])
        if closed_s is None:
            return
        self.latency_ms.append((now_s - self.start_s - closed_s) * 1000)
        if len(self.latency_ms) % READ_EVERY == 0:
            key = (data["user_id"], data["segment_id"])
            row = self.session.execute(self._select, key).one()
            self.read += 1
            self.not_readable += row is None or row.number < data["number"]
