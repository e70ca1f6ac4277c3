"""A token bucket for each caller, in the memory of this process.

Turner, "New directions in communications (or which way to the information age?)", IEEE
Communications Magazine 24(10), 1986, describes the leaky bucket that this is a form of.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

# Forgets the callers that have been silent longest. A forgotten caller starts with a full bucket.
MAX_CALLERS = 10_000


class RateLimiter:
    """`per_s`: tokens that a bucket gains each second. `burst`: its size. `clock_s`: monotonic."""

    def __init__(self, per_s: float, burst: float, clock_s: Callable[[], float]):
        self._per_s, self._burst, self._clock_s = per_s, burst, clock_s
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, at

    def wait_s(self, caller: str, cost: float = 1.0) -> float:
        """Takes `cost` tokens and returns 0, or takes none and returns the seconds to wait.

        A cost above the size of the bucket needs a full bucket.
        """
        now_s = self._clock_s()
        tokens, at_s = self._buckets.pop(caller, (self._burst, now_s))
        tokens = min(self._burst, tokens + (now_s - at_s) * self._per_s)
        needed = min(cost, self._burst)
        taken = needed if tokens >= needed else 0.0
        self._buckets[caller] = (tokens - taken, now_s)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        return 0.0 if taken else (needed - tokens) / self._per_s
