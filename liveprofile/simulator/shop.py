"""The simulated shop: an iterator over its days; and a ring alone."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from liveprofile.errors import InputError
from liveprofile.simulator import cases
from liveprofile.simulator.output import (
    FRAUD,
    STDOUT,
    IdMapper,
    ShopDay,
    build_day,
    day_writer,
    nest_attributes,
)
from liveprofile.simulator.people import People
from liveprofile.simulator.plan import (
    HABIT_CHANGES,
    CaseKind,
    CasePlan,
    HabitChanges,
    IdCounts,
    PlantedCase,
)
from liveprofile.simulator.visits import OrdinaryTraffic, events_per_visit
from liveprofile.simulator.world import START, RandomStream, ShopConfig, World, random_generator
from liveprofile.units import DAY_MS, HOUR_MS


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
            planted = self._cases_by_day.get(day, ())
            drawn = [self._traffic.draw_day(day), *map(self._draw_case, planted)]
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
            rows = cases.takeover_events(rng, case, people, world)
        elif case.kind is CaseKind.CARD_TEST:
            rows = cases.card_test_events(rng, case, people, world)
        elif case.kind is CaseKind.COUPON_RING:
            rows = cases.ring_events(rng, case, world)
        else:
            rows = cases.campaign_events(rng, case, self.config, people, world)
        rows["case"] = case.number
        return rows


def shared_device_ring(
    users: int = 50,
    devices: int = 3,
    *,
    labelled: bool = True,
    seed: int = 0,
    addresses: int = 4,
    coupons: int = 3,
    hours: float = 48.0,
    start: date = START,
) -> ShopDay:
    """Purchases of a ring whose users share devices, addresses and coupons.

    labelled: as fraud. With another number of devices, such as one per user, all fields but
    device_id are equal. Raises InputError if there are more devices than users, or none.
    """
    config = ShopConfig(users, 1, start, seed, ring_users=users, ring_devices=devices)
    codes = map(np.arange, (users, devices, addresses, coupons))
    kind, duration_ms = CaseKind.COUPON_RING, int(hours * HOUR_MS)
    case = PlantedCase(0, kind, config.start_ms, duration_ms, 0, *codes)
    world = World(config.seed)
    rows = cases.ring_purchases(random_generator(config.seed, RandomStream.SCENARIO), case, world)
    if labelled:
        rows["case"] = case.number
    rows = rows[np.argsort(rows["time_ms"], kind="stable")]
    # One device per user is reserved, so that ids do not depend on the number of devices.
    counts = IdCounts(users, users, len(case.addresses), len(case.coupons))
    return build_day(rows, 0, config.seed, IdMapper(config.seed, counts, world), [case])


class WriteResult(NamedTuple):
    """Summary of a written shop; `liveprofile events generate` prints it as JSON."""

    events: int
    users: int  # ordinary users
    days: int
    seed: int
    fraud_events: dict[str, int]  # by kind
    seconds: float


def write_shop(
    shop: Shop,
    out: Path,
    labels: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> WriteResult:
    """Writes the shop day by day; `progress` receives the number of events of each day.

    `out`: .jsonl, .parquet, or "-" for JSON lines on standard output. `labels`: .jsonl or
    .parquet. Raises InputError for another file name or a file that cannot be written.
    """
    if labels is not None and labels == out:
        raise InputError(f"{labels}: events and labels need a file each")
    started = time.monotonic()
    count, fraud_events = 0, Counter[str]()
    with ExitStack() as stack:
        writers: list[Callable[[ShopDay], object]] = [
            (lambda day: sys.stdout.buffer.write(day.lines()))
            if out == STDOUT
            else day_writer(out, stack, ShopDay.lines, lambda day: nest_attributes(day.events))
        ]
        if labels is not None:
            writers.append(day_writer(labels, stack, ShopDay.label_lines, lambda day: day.labels))
        for day in shop:
            for write in writers:
                write(day)
            count += day.events.num_rows
            fraud = day.labels.filter(pc.equal(day.labels["label"], FRAUD))
            fraud_events.update(fraud["kind"].to_pylist())
            if progress is not None:
                progress(day.events.num_rows)
    config = shop.config
    return WriteResult(
        events=count,
        users=config.users,
        days=config.days,
        seed=config.seed,
        fraud_events=dict(sorted(fraud_events.items())),
        seconds=round(time.monotonic() - started, 3),
    )
