"""How many users each key lists: its daily budget over all servers, and a record of these reads."""

from collections import Counter
from collections.abc import Callable
from datetime import date
from uuid import uuid4

from liveprofile.storage.cql import from_ms
from liveprofile.units import DAY_MS, HOUR_MS, SECOND_MS
from serve.problems import ApiError
from serve.store.store import Store


class Listing:
    """most: users of a key and a UTC day; 0: no limit. clock_ms: the wall clock."""

    def __init__(self, most: int, store: Store, clock_ms: Callable[[], int]):
        self._most, self._store, self._clock_ms = most, store, clock_ms
        self._server = uuid4().hex
        self._day: date | None = None
        self._own: Counter[tuple] = Counter()  # of this day: users by place, and by key

    async def add(self, key_id: str, name: str, route: str, users: int) -> None:
        """Stores how many users a request lists. Raises ApiError 429, ServiceError.

        Servers that add at the same moment may exceed the budget by these requests.
        """
        now_ms = self._clock_ms()
        day, hour_ms = from_ms(now_ms).date(), now_ms // HOUR_MS * HOUR_MS
        stored = await self._store.rows("listed", (day, key_id))
        if day != self._day:
            self._day, self._own = day, Counter()
        others = sum(count for server, count in stored if server != self._server)
        if 0 < self._most < self._own[key_id,] + others + users:
            detail = f"a key may list {self._most:,} users a day (serve.max_listed_users_per_day)"
            headers = {"Retry-After": str((DAY_MS - now_ms % DAY_MS) // SECOND_MS + 1)}
            raise ApiError(429, "budget-spent", detail, headers=headers)
        place = (day, key_id, hour_ms, route, self._server)
        self._own.update({(key_id,): users, place: users})
        ttl_s = self._store.settings.cassandra.history_ttl_s
        await self._store.rows("put_listed", (*place, name, self._own[place], ttl_s))
