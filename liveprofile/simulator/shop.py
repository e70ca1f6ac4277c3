"""The simulated shop: an iterator over its days."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from liveprofile.simulator import crowds, fraud
from liveprofile.simulator.changes import HabitChanges
from liveprofile.simulator.config import RandomStream, ShopConfig, random_generator
from liveprofile.simulator.people import People
from liveprofile.simulator.plan import HABIT_CHANGES, CaseKind, CasePlan, PlantedCase
from liveprofile.simulator.tables import IdMapper, ShopDay, build_day
from liveprofile.simulator.visits import OrdinaryTraffic, events_per_visit
from liveprofile.simulator.world import World
from liveprofile.units import DAY_MS


class Shop:
    """Yields one ShopDay per day of the run; each iteration starts again from the first day.

    Memory holds the habits of all users, the events of one day, and the events of earlier days
    that lie in the future (returns of goods, the rest of a ring). Raises InputError if the planted
    cases need more users than there are.
    """

    def __init__(self, config: ShopConfig):
        self.config = config
        self._world = World(config.seed)
        self.people = People(config, self._world, events_per_visit())
        plan = CasePlan(config, self.people)
        self.cases: list[PlantedCase] = plan.cases
        changes = HabitChanges(config, plan.cases, self.people, self._world)
        self._traffic = OrdinaryTraffic(config, self.people, changes, self._world)
        self._ids = IdMapper(config.seed, plan.id_counts, self._world)
        # Cases with events of their own, by the day on which they begin.
        self._cases_by_day: dict[int, list[PlantedCase]] = {}
        for case in plan.cases:
            if case.kind not in HABIT_CHANGES:
                day = (case.start_ms - config.start_ms) // DAY_MS
                self._cases_by_day.setdefault(day, []).append(case)

    def __iter__(self) -> Iterator[ShopDay]:
        pending = np.empty(0)
        first_number = 0
        for day in range(self.config.days):
            cases = self._cases_by_day.get(day, ())
            drawn = [self._traffic.draw_day(day), *map(self._draw_case, cases)]
            rows = np.concatenate([pending, *drawn] if len(pending) else drawn)
            due = rows["time_ms"] < self.config.start_ms + (day + 1) * DAY_MS
            pending, rows = rows[~due], rows[due]
            rows = rows[np.argsort(rows["time_ms"], kind="stable")]
            yield build_day(rows, first_number, self.config.seed, self._ids, self.cases)
            first_number += len(rows)

    def _draw_case(self, case: PlantedCase) -> np.ndarray:
        """The event rows of the case, in no particular order."""
        rng = random_generator(self.config.seed, RandomStream.CASE, case.number)
        people, world = self.people, self._world
        if case.kind is CaseKind.TAKEOVER:
            rows = fraud.takeover_events(rng, case, people, world)
        elif case.kind is CaseKind.CARD_TEST:
            rows = fraud.card_test_events(rng, case, people, world)
        elif case.kind is CaseKind.COUPON_RING:
            rows = crowds.ring_events(rng, case, world)
        else:
            rows = crowds.campaign_events(rng, case, self.config, people, world)
        rows["case"] = case.number
        return rows
