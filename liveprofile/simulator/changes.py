"""Honest changes of habit: what is different for whom, from which day on."""

from __future__ import annotations

import numpy as np

from liveprofile.simulator.config import DAY_MS, Config
from liveprofile.simulator.people import HOME_SPREAD, People
from liveprofile.simulator.plan import CHANGE_DAYS, CHANGES, Case, Kind
from liveprofile.simulator.streams import Stream, generator
from liveprofile.simulator.world import World

NEVER = np.iinfo(np.int32).max
# These end with their days; the others stay.
PASSING = (Kind.HONEST_GIFTS,)


class Changes:
    """At most one change a user, on a day counted from the start of the run."""

    def __init__(self, config: Config, cases: list[Case], people: People, world: World):
        self._kind = np.full(people.count, -1)
        self._first = np.full(people.count, NEVER)
        self._last = np.full(people.count, -1)  # of the days labelled
        self._case = np.full(people.count, -1)
        self.home = people.home.copy()  # (U, 2) degrees, after the change
        self.replaced = people.replaced.copy()  # (U, 2) the day from which a device is another
        self.head = np.arange(people.count)  # whose device and address a new family shares
        for case in cases:
            if case.kind not in CHANGES:
                continue
            day = (case.start_ms - config.start_ms) // DAY_MS
            self._kind[case.users] = case.kind
            self._first[case.users] = day
            self._last[case.users] = day + CHANGE_DAYS[case.kind] - 1
            self._case[case.users] = case.number
            if case.kind is Kind.HONEST_MOVE:
                rng = generator(config.seed, Stream.CASE, case.number)
                city = world.city[world.some_cities(rng, 1)]
                self.home[case.users] = city + HOME_SPREAD * rng.standard_normal((1, 2))
                # The mover has a new phone, too.
                self.replaced[case.users, 0] = day
            elif case.kind is Kind.HONEST_FAMILY:
                self.head[case.users] = case.users[0]
                self.home[case.users] = people.home[case.users[0]]

    def kinds(self, day: int) -> np.ndarray:
        """(U,) the Kind that is in effect for each user on that day, or -1."""
        passed = np.isin(self._kind, PASSING) & (self._last < day)
        return np.where((self._first <= day) & ~passed, self._kind, -1)

    def cases(self, day: int) -> np.ndarray:
        """(U,) the case that each user's events of that day belong to, or -1."""
        return np.where((self._first <= day) & (day <= self._last), self._case, -1)
