"""Honest changes of habit: who changes what, from which day on.

Array shapes: U users.
"""

from __future__ import annotations

import numpy as np

from liveprofile.simulator.config import RandomStream, ShopConfig, random_generator
from liveprofile.simulator.people import HOME_SPREAD, People
from liveprofile.simulator.plan import CHANGE_DAYS, HABIT_CHANGES, CaseKind, PlantedCase
from liveprofile.simulator.world import World
from liveprofile.units import DAY_MS

NEVER = np.iinfo(np.int32).max
# Changes that end after CHANGE_DAYS; the others are permanent.
TEMPORARY = (CaseKind.HONEST_GIFTS,)


class HabitChanges:
    """At most one change of habit per user; days count from the start of the run."""

    def __init__(self, config: ShopConfig, cases: list[PlantedCase], people: People, world: World):
        self._kind = np.full(people.count, -1)
        self._first_day = np.full(people.count, NEVER)
        self._last_labelled_day = np.full(people.count, -1)
        self._case = np.full(people.count, -1)
        self.home = people.home.copy()  # (U, 2) degrees, after the change
        self.replacement_day = people.replacement_day.copy()  # (U, 2), after the change
        # (U,) user whose device and address a new family shares.
        self.family_head = np.arange(people.count)
        for case in cases:
            if case.kind not in HABIT_CHANGES:
                continue
            day = (case.start_ms - config.start_ms) // DAY_MS
            self._kind[case.users] = case.kind
            self._first_day[case.users] = day
            self._last_labelled_day[case.users] = day + CHANGE_DAYS[case.kind] - 1
            self._case[case.users] = case.number
            if case.kind is CaseKind.HONEST_MOVE:
                rng = random_generator(config.seed, RandomStream.CASE, case.number)
                city = world.city_location[world.draw_cities(rng, 1)]
                self.home[case.users] = city + HOME_SPREAD * rng.standard_normal((1, 2))
                # A user who moves also gets a new phone.
                self.replacement_day[case.users, 0] = day
            elif case.kind is CaseKind.HONEST_FAMILY:
                self.family_head[case.users] = case.users[0]
                self.home[case.users] = people.home[case.users[0]]

    def kinds(self, day: int) -> np.ndarray:
        """(U,) the CaseKind in effect for each user on that day, or -1."""
        ended = np.isin(self._kind, TEMPORARY) & (self._last_labelled_day < day)
        return np.where((self._first_day <= day) & ~ended, self._kind, -1)

    def cases(self, day: int) -> np.ndarray:
        """(U,) the case number that labels each user's events of that day, or -1."""
        labelled = (self._first_day <= day) & (day <= self._last_labelled_day)
        return np.where(labelled, self._case, -1)
