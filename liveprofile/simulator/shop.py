"""A generated shop: its days in order, each in memory at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from liveprofile.simulator import crowds, fraud
from liveprofile.simulator.changes import Changes
from liveprofile.simulator.config import DAY_MS, Config
from liveprofile.simulator.people import People
from liveprofile.simulator.plan import CHANGES, Case, Kind, Plan
from liveprofile.simulator.streams import Stream, generator
from liveprofile.simulator.tables import Day, Names, day_of
from liveprofile.simulator.visits import Ordinary, events_per_visit
from liveprofile.simulator.world import World


class Shop:
    """Iterating yields one Day a day of the run; again from the start each time.

    Memory holds the habits of all users, one day's events, and of earlier days what has not
    happened yet (returns of goods, the rest of a ring). Raises InputError if the cases planted
    need more users than there are.
    """

    def __init__(self, config: Config):
        self.config = config
        self._world = World(config.seed)
        self.people = People(config, self._world, events_per_visit())
        plan = Plan(config, self.people)
        self.cases: list[Case] = plan.cases
        changes = Changes(config, plan.cases, self.people, self._world)
        self._ordinary = Ordinary(config, self.people, changes, self._world)
        self._names = Names(config.seed, plan.sizes, self._world)
        self.users = plan.sizes.users  # the accounts made for fraud included
        self._drawn: dict[int, list[Case]] = {}  # by the day on which they begin
        for case in plan.cases:
            if case.kind not in CHANGES:
                day = (case.start_ms - config.start_ms) // DAY_MS
                self._drawn.setdefault(day, []).append(case)

    def __iter__(self) -> Iterator[Day]:
        pending = np.empty(0)
        done = 0
        for day in range(self.config.days):
            drawn = [self._ordinary.day(day), *map(self._draw, self._drawn.get(day, ()))]
            rows = np.concatenate([pending, *drawn] if len(pending) else drawn)
            now = rows["time_ms"] < self.config.start_ms + (day + 1) * DAY_MS
            pending, rows = rows[~now], rows[now]
            rows = rows[np.argsort(rows["time_ms"], kind="stable")]
            yield day_of(rows, done, self.config.seed, self._names, self.cases)
            done += len(rows)

    def _draw(self, case: Case) -> np.ndarray:
        """The case's events, in no order."""
        rng = generator(self.config.seed, Stream.CASE, case.number)
        people, world = self.people, self._world
        if case.kind is Kind.TAKEOVER:
            rows = fraud.takeover(rng, case, people, world)
        elif case.kind is Kind.CARD_TEST:
            rows = fraud.card_test(rng, case, people, world)
        elif case.kind is Kind.COUPON_RING:
            rows = crowds.ring(rng, case, world)
        else:
            rows = crowds.campaign(rng, case, self.config, people, world)
        rows["case"] = case.number
        return rows
