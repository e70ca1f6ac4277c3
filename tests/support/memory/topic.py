"""A topic in memory, for what follows a topic in a thread (liveprofile/feeds/feed.py)."""

from __future__ import annotations

import queue
import time

from liveprofile.kafka.records import Record


class FakeTopic:
    """A TopicTail: `records` exist when it is opened, `put` adds more later."""

    def __init__(self, *records: Record, pause_s: float = 0.0):
        self._queue: queue.Queue[Record | Exception] = queue.Queue()
        self._first, self._pause_s = list(records), pause_s
        self.caught_up = False
        self.closed = False

    def put(self, *records: Record | Exception) -> None:
        """Adds records; `poll` raises those that are exceptions."""
        for record in records:
            self._queue.put(record)

    def poll(self, timeout_s: float) -> list[Record]:
        if not self.caught_up:  # one record per poll; the poll after the last one catches up
            time.sleep(self._pause_s)
            self.caught_up = not self._first
            return [self._first.pop(0)] if self._first else []
        try:
            record = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return []
        if isinstance(record, Exception):
            raise record
        return [record]

    def close(self) -> None:
        self.closed = True
