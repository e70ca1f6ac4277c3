"""The attributes of the users of a batch: stated by other systems, or computed by the job.

What other systems state is in user_attribute, which is read with a cache.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from liveprofile.attributes.computed import values_of_rows
from liveprofile.attributes.statements import (
    RULE_PURPOSES,
    SEGMENT_PURPOSES,
    Purpose,
    Statement,
    attribute_values,
)
from liveprofile.rules.conditions import ATTRIBUTE, AttributeValue, TextCall, attribute_column

MAX_USERS = 100_000  # about a kilobyte each if they have attributes
MAX_AGE_S = 30.0  # so long a worker may use attributes that have changed


class StatementsReader(Protocol):
    """Reads user_attribute."""

    def statements(self, user_ids: Iterable[str]) -> dict[str, list[Statement]]:
        """What other systems state about each of these users. Raises StoreError."""


class BatchAttributes(NamedTuple):
    """The attributes of n users at a time each."""

    columns: dict[TextCall, np.ndarray]  # (n,) objects by attribute, for rules
    values: Sequence[Mapping[str, AttributeValue | None]]  # n, for segments; empty: none


class CachedAttributes:
    """The attributes of users, read again after `max_age_s`. A full cache is cleared."""

    def __init__(
        self,
        reader: StatementsReader,
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

    def of_batch(
        self,
        user_ids: Sequence[str],
        times_ms: Sequence[int],
        tiles: Sequence[str],
        rule_names: Sequence[str],
        segment_names: frozenset[str],
    ) -> BatchAttributes:
        """What rules and segments read of users at these times. Raises StoreError.

        tiles: of each user, the JSON of liveprofile.wire.attribute_tiles. An attribute that the job
        computes hides a stated one of the same name.
        """
        if not rule_names and not segment_names:
            return BatchAttributes({}, ())
        computed = values_of_rows(tiles, times_ms)
        own = computed[0].keys() if computed else set()
        columns = self.rule_columns(
            [name for name in rule_names if name not in own], user_ids, times_ms
        )
        for name in own & set(rule_names):
            columns[TextCall(ATTRIBUTE, name)] = attribute_column(name, computed)
        values: Sequence[Mapping[str, AttributeValue | None]] = computed
        if segment_names - own:
            stated = self.values(user_ids, times_ms, SEGMENT_PURPOSES)
            values = [one | more for one, more in zip(stated, computed, strict=True)]
        return BatchAttributes(columns, values)
