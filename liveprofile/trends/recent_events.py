"""The events of the last hours by digest, to count a copy of an event only once."""

from __future__ import annotations

import numpy as np


class RecentEvents:
    """When each event was last seen: 16 bytes an event within `ttl_ms`.

    An event is a copy if the same event_id was seen within `ttl_ms` before it, in record time. The
    answer depends on the records of that time only, so it does not matter how far back the memory
    reaches beyond it.

    Digests are kept in sorted runs, each at most half as long as the one before it, so that n
    events need O(n log n) comparisons (a log-structured merge, O'Neil and others 1996).
    """

    def __init__(self, ttl_ms: int) -> None:
        self._ttl_ms = ttl_ms
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []  # digests, ascending; times

    def __len__(self) -> int:
        return sum(len(digests) for digests, _ in self._runs)

    def add(self, digests: np.ndarray, times_ms: np.ndarray) -> np.ndarray:
        """Returns (N,) whether each event is the first, and remembers all.

        digests: (N,) uint64 in order of arrival; times_ms: (N,) int64 record timestamps.
        """
        order = np.argsort(digests, kind="stable")
        ordered, times = digests[order], times_ms[order]
        before_ms = np.full(len(ordered), np.iinfo(np.int64).min // 2)
        before_ms[1:] = np.where(ordered[1:] == ordered[:-1], times[:-1], before_ms[1:])
        for known, known_ms in self._runs:
            place = np.minimum(np.searchsorted(known, ordered), len(known) - 1)
            seen_ms = np.where(known[place] == ordered, known_ms[place], before_ms)
            before_ms = np.maximum(before_ms, seen_ms)
        first = np.empty(len(ordered), np.bool_)
        first[order] = before_ms < times - self._ttl_ms
        if len(ordered):
            self._remember(ordered, times)
        return first

    def _remember(self, digests: np.ndarray, times_ms: np.ndarray) -> None:
        run = _latest(digests, times_ms)
        while self._runs and len(self._runs[-1][0]) < 2 * len(run[0]):
            other = self._runs.pop()
            run = _latest(*(np.concatenate(pair) for pair in zip(other, run, strict=True)))
            fresh = run[1] >= times_ms.max() - self._ttl_ms
            run = (run[0][fresh], run[1][fresh])
        if len(run[0]):
            self._runs.append(run)


def _latest(digests: np.ndarray, times_ms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct digests, ascending, each with its latest time."""
    order = np.lexsort((times_ms, digests))
    digests, times_ms = digests[order], times_ms[order]
    last = np.append(digests[1:] != digests[:-1], True)
    return digests[last], times_ms[last]
