"""What other systems state about the users of a batch: reads of user_attribute, with a cache."""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from liveprofile.attributes.statements import RULE_PURPOSES, Purpose, Statement, attribute_values
from liveprofile.rules.conditions import ATTRIBUTE, AttributeValue, TextCall, attribute_column

MAX_USERS = 100_000  # about a kilobyte each if they have attributes
MAX_AGE_S = 30.0  # so long a worker may use attributes that have changed


class CachedAttributes:
    """The attributes of users, read again after `max_age_s`. A full cache is cleared.

    reader: a sink of either pipeline, of which `statements` is used.
    """

    def __init__(
        self,
        reader: Any,
        *,
        max_users: int = MAX_USERS,
        max_age_s: float = MAX_AGE_S,
        clock_s: Callable[[], float] = time.monotonic,
    ):
        self._reader, self._clock_s = reader, clock_s
        self._max_users, self._max_age_s = max_users, max_age_s
        self._users: dict[str, tuple[float, list[Statement]]] = {}

    def values(
        self, user_ids: Sequence[str], times_ms: Sequence[int], purposes: Collection[Purpose]
    ) -> list[dict[str, AttributeValue]]:
        """The attributes of each user at each time (rows). Raises StoreError."""
        now_s = self._clock_s()
        fresh_s = now_s - self._max_age_s
        stale = [
            user_id
            for user_id in dict.fromkeys(user_ids)
            if user_id not in self._users or self._users[user_id][0] < fresh_s
        ]
        if stale:
            if len(self._users) + len(stale) > self._max_users:
                stale = list(dict.fromkeys(user_ids))
                self._users.clear()
            read = self._reader.statements(stale)
            self._users.update((user_id, (now_s, read[user_id])) for user_id in stale)
        return [
            attribute_values(self._users[user_id][1], time_ms, purposes)
            for user_id, time_ms in zip(user_ids, times_ms, strict=True)
        ]

    def rule_columns(
        self, names: Sequence[str], user_ids: Sequence[str], times_ms: Sequence[int]
    ) -> dict[TextCall, np.ndarray]:
        """(n,) objects for each of these attributes, for rules. Reads nothing if there are none."""
        if not names:
            return {}
        users = self.values(user_ids, times_ms, RULE_PURPOSES)
        return {TextCall(ATTRIBUTE, name): attribute_column(name, users) for name in names}
