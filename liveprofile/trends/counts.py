"""What is counted: events, amount and users of a series in an hour or a day."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from liveprofile.events.validation import AcceptedEvent
from liveprofile.trends import distinct_users
from liveprofile.units import DAY_MS, HOUR_MS

SPANS_MS = {"hour": HOUR_MS, "day": DAY_MS}
ALL = "all"  # as scope: all categories together; as event type: all types together
CATEGORY = "category"
OTHER = "other"  # the scope of categories beyond MAX_CATEGORIES


class Series(NamedTuple):
    """Whose counts they are."""

    scope: str  # ALL, CATEGORY or OTHER
    category: str  # "" unless the scope is CATEGORY; there, "" is the unknown category
    event_type: str  # ALL occurs only with the scope ALL

    @property
    def exact_users(self) -> int:
        """Up to how many users the number of users is exact."""
        is_category = self.scope == CATEGORY
        return distinct_users.EXACT_USERS if is_category else distinct_users.EXACT_USERS_OF_ALL


class Count(NamedTuple):
    """The counts of a series in one hour or day."""

    events: int
    amount: float  # of events of the series; of purchases, if it has all types
    user_hashes: np.ndarray  # (n,) uint64: liveprofile.trends.distinct_users

    def plus(self, other: Count, exact_users: int) -> Count:
        return Count(
            self.events + other.events,
            self.amount + other.amount,
            distinct_users.union(self.user_hashes, other.user_hashes, exact_users),
        )


# By span ("hour" or "day") and series: the start of the hour or day in ms, and its count.
Counts = dict[tuple[str, Series], dict[int, Count]]


class CountedCategories:
    """The categories that have series of their own: at most `most`, the first that occur.

    Clients choose category names freely, so their number must have a limit.
    """

    def __init__(self, known: Iterable[str], most: int) -> None:
        self._known, self._most = set(known), most

    def scope(self, category: str) -> tuple[str, str]:
        """Returns scope and category of the series that counts this category."""
        if category in self._known or len(self._known) < self._most:
            self._known.add(category)
            return CATEGORY, category
        return OTHER, ""


class EventCounter:
    """Counts events in memory. The result does not depend on their order."""

    def __init__(self) -> None:
        # By category, type and hour: amounts and hashes of users of every event.
        self._events: dict[tuple[str, str, int], tuple[list[float], list[int]]] = {}
        self._first: dict[str, tuple[int, int]] = {}  # by category, the place of its first event
        self.events = 0

    def add(self, event: AcceptedEvent, place: tuple[int, int]) -> None:
        """place: offset and partition of the event's record."""
        self.events += 1
        key = (event.category, event.event_type, event.time_ms // HOUR_MS * HOUR_MS)
        if key not in self._events:
            self._events[key] = ([], [])
        amounts, users = self._events[key]
        amounts.append(event.amount)
        users.append(distinct_users.user_hash(event.user_id))
        first = self._first.get(event.category)
        if first is None or place < first:
            self._first[event.category] = place

    def counts(self, categories: CountedCategories) -> Counts:
        """Returns the counts of all series that the events belong to."""
        order = sorted(self._first, key=self._first.__getitem__)
        scopes = {category: categories.scope(category) for category in order}
        amounts: dict[tuple[str, Series], dict[int, list[float]]] = defaultdict(dict)
        hashes: dict[tuple[str, Series], dict[int, list[np.ndarray]]] = defaultdict(dict)
        numbers: dict[tuple[str, Series], dict[int, int]] = defaultdict(dict)
        for (category, event_type, hour_ms), (event_amounts, users) in self._events.items():
            of_users = np.unique(np.array(users, np.uint64))
            for series in (
                Series(*scopes[category], event_type),
                Series(ALL, "", event_type),
                Series(ALL, "", ALL),
            ):
                counted = series.event_type != ALL or event_type == "purchase"
                for span, span_ms in SPANS_MS.items():
                    key, start_ms = (span, series), hour_ms // span_ms * span_ms
                    numbers[key][start_ms] = numbers[key].get(start_ms, 0) + len(users)
                    hashes[key].setdefault(start_ms, []).append(of_users)
                    if counted:
                        amounts[key].setdefault(start_ms, []).extend(event_amounts)
        return {
            key: {
                start_ms: Count(
                    number,
                    # fsum: the sum does not depend on the order of arrival.
                    math.fsum(amounts[key].get(start_ms, ())),
                    distinct_users.smallest(
                        np.concatenate(hashes[key][start_ms]), key[1].exact_users
                    ),
                )
                for start_ms, number in starts.items()
            }
            for key, starts in numbers.items()
        }


def total(stored: tuple[int, Count] | None, chunk: int, new: Count, exact: int) -> Count | None:
    """Returns a row's count with a chunk; None if the row contains the chunk already.

    stored: the number of the last chunk in the row, and its count.
    """
    if stored is None:
        return new
    last_chunk, count = stored
    return None if last_chunk >= chunk else count.plus(new, exact)
