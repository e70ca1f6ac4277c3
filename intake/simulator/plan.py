"""The plan of planted cases: which, when, and on which users, devices, addresses and coupons.

Honest changes of habit are cases without events of their own. Array shapes: U users.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from intake.simulator.world import (
    HOME_SPREAD,
    PUBLIC_COUPONS_PER_WEEK,
    People,
    RandomStream,
    ShopConfig,
    World,
    public_coupon,
    random_generator,
)
from liveprofile.errors import InputError
from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS


class CaseKind(IntEnum):
    """Kind of a planted case: three of fraud, then the honest ones."""

    TAKEOVER = 0
    CARD_TEST = 1
    COUPON_RING = 2
    HONEST_MOVE = 3
    HONEST_GIFTS = 4
    HONEST_RAISE = 5
    HONEST_FAMILY = 6
    HONEST_CAMPAIGN = 7

    @property
    def text(self) -> str:
        """The value of the labels' column `kind`, such as takeover or honest_move."""
        return self.name.lower()

    @property
    def is_fraud(self) -> bool:
        return self <= CaseKind.COUPON_RING


# Kinds that change how ordinary events are drawn. The other kinds add events of their own.
HABIT_CHANGES = (
    CaseKind.HONEST_MOVE,
    CaseKind.HONEST_GIFTS,
    CaseKind.HONEST_RAISE,
    CaseKind.HONEST_FAMILY,
)
# Median days from an event to its label. The log of the delay has sigma LABEL_DELAY_SIGMA.
LABEL_DELAY_DAYS = {
    CaseKind.TAKEOVER: 3,
    CaseKind.CARD_TEST: 2,
    CaseKind.COUPON_RING: 14,
} | dict.fromkeys((*HABIT_CHANGES, CaseKind.HONEST_CAMPAIGN), 2)
LABEL_DELAY_SIGMA = 0.7
# Days for which the events after a change of habit are labelled.
CHANGE_DAYS = {
    CaseKind.HONEST_MOVE: 14,
    CaseKind.HONEST_GIFTS: 8,
    CaseKind.HONEST_RAISE: 30,
    CaseKind.HONEST_FAMILY: 30,
}
# No case begins in the first days (at most a third of the run): users need habits first.
QUIET_DAYS = 7
TAKEOVER_HOURS, CARD_TEST_MINUTES, RING_HOURS = 1.5, 15, (24, 120)
# Thieves reuse devices and addresses: numbers of each for ten takeovers.
TAKEOVER_DEVICES, TAKEOVER_ADDRESSES = 8, 6
CARD_TEST_ACCOUNTS, CARD_TEST_DEVICES = 10, 3
CARD_TEST_STOLEN_ACCOUNT = 0.3
RING_USERS_PER_ADDRESS = 12
RING_COUPONS = 3
# Share of a ring's users who were ordinary users before: accounts bought or lent.
RING_ORDINARY = 0.3
CAMPAIGN_USERS, CAMPAIGN_ORDINARY, CAMPAIGN_COUPONS = (20, 120), (0.1, 0.5), 3
CAMPAIGN_HOURS = (12, 120)
# Share of campaigns whose users share addresses, and the users per address in those.
CAMPAIGN_SHARED_ADDRESS, CAMPAIGN_USERS_PER_ADDRESS = 0.5, (4, 25)
FAMILY_USERS = (2, 4)
NO_CODES = np.empty(0, np.int64)


class PlantedCase(NamedTuple):
    """A planted case and the codes it uses; a change of habit uses users only."""

    number: int
    kind: CaseKind
    start_ms: int
    duration_ms: int
    label_delay_ms: int
    users: np.ndarray
    devices: np.ndarray
    addresses: np.ndarray
    coupons: np.ndarray


class IdCounts(NamedTuple):
    """Number of codes of each type of id, planted ones included."""

    users: int
    devices: int
    addresses: int
    coupons: int


class _CodeAllocator:
    """Hands out unused codes in ascending order."""

    def __init__(self, first: int):
        self.next = first

    def take(self, count: int) -> np.ndarray:
        self.next += count
        return np.arange(self.next - count, self.next)


class CasePlan:
    """Plans all cases of a run.

    Raises InputError if the cases need more users than are present from the start.
    """

    def __init__(self, config: ShopConfig, people: People):
        self._config = config
        self._rng = random_generator(config.seed, RandomStream.PLAN)
        self._candidates = self._draw_candidates(people)
        self._used_candidates = 0
        self._users = _CodeAllocator(people.count)
        self._devices = _CodeAllocator(people.device_count)
        self._addresses = _CodeAllocator(people.address_count)
        self._coupons = _CodeAllocator(((config.days - 1) // 7 + 1) * PUBLIC_COUPONS_PER_WEEK)
        self.cases: list[PlantedCase] = []
        self._plan_takeovers()
        self._plan_card_tests()
        self._plan_rings()
        self._plan_habit_changes()
        self._plan_campaigns()
        if self._used_candidates > len(self._candidates):
            raise InputError(
                f"users = {config.users}: the planted cases need {self._used_candidates} users who"
                f" are present from the start, and there are {len(self._candidates)}: take more"
                " users or fewer cases"
            )
        self.id_counts = IdCounts(
            self._users.next, self._devices.next, self._addresses.next, self._coupons.next
        )

    def _draw_candidates(self, people: People) -> np.ndarray:
        """Users present from the start in random order, busy ones sooner.

        Weighted sampling without replacement by Efraimidis and Spirakis (2006).
        """
        keys = self._rng.standard_exponential(people.count) / people.visits_per_day
        order = np.argsort(keys, kind="stable")
        return order[people.join_day[order] < 0]

    def _take_ordinary(self, count: int) -> np.ndarray:
        """The next `count` candidates; fewer if too few are left, which __init__ reports."""
        self._used_candidates += count
        return self._candidates[self._used_candidates - count : self._used_candidates]

    def _add(
        self,
        kind: CaseKind,
        duration_ms: int,
        users: np.ndarray,
        devices: np.ndarray = NO_CODES,
        addresses: np.ndarray = NO_CODES,
        coupons: np.ndarray = NO_CODES,
        start_ms: int | None = None,
    ) -> None:
        delay_sigmas = LABEL_DELAY_SIGMA * self._rng.standard_normal()
        delay_days = LABEL_DELAY_DAYS[kind] * np.exp(delay_sigmas)
        self.cases.append(
            PlantedCase(
                len(self.cases),
                kind,
                self._draw_start_ms(duration_ms) if start_ms is None else start_ms,
                duration_ms,
                int(delay_days * DAY_MS),
                users,
                devices,
                addresses,
                coupons,
            )
        )

    @property
    def _first_day(self) -> int:
        return min(QUIET_DAYS, self._config.days // 3)

    def _draw_start_ms(self, duration_ms: int) -> int:
        """A start that lets the whole case lie within the run."""
        first_ms = self._config.start_ms + self._first_day * DAY_MS
        return first_ms + int(self._rng.random() * (self._config.end_ms - first_ms - duration_ms))

    def _draw_duration_ms(self, hours: tuple[int, int]) -> int:
        """A duration within these hours, at most half of the days that cases may use."""
        longest_ms = (self._config.days - self._first_day) * DAY_MS // 2
        return min(int(self._rng.uniform(*hours) * HOUR_MS), longest_ms)

    def _plan_takeovers(self) -> None:
        count = self._config.takeovers or 0
        devices = self._devices.take(-(-count * TAKEOVER_DEVICES // 10))
        addresses = self._addresses.take(-(-count * TAKEOVER_ADDRESSES // 10))
        for _ in range(count):
            self._add(
                CaseKind.TAKEOVER,
                int(TAKEOVER_HOURS * HOUR_MS),
                self._take_ordinary(1),
                self._rng.choice(devices, 1),
                self._rng.choice(addresses, 1),
            )

    def _plan_card_tests(self) -> None:
        for _ in range(self._config.card_tests or 0):
            stolen = self._rng.random() < CARD_TEST_STOLEN_ACCOUNT
            accounts = min(int(self._rng.geometric(0.35)), CARD_TEST_ACCOUNTS)
            users = self._take_ordinary(1) if stolen else self._users.take(accounts)
            devices = self._devices.take(CARD_TEST_DEVICES)
            self._add(CaseKind.CARD_TEST, CARD_TEST_MINUTES * MINUTE_MS, users, devices)

    def _plan_rings(self) -> None:
        config = self._config
        for _ in range(config.rings or 0):
            ordinary = self._take_ordinary(
                config.ordinary_members(config.ring_users, RING_ORDINARY)
            )
            fresh = self._users.take(config.ring_users - len(ordinary))
            duration_ms = self._draw_duration_ms(RING_HOURS)
            start_ms = self._draw_start_ms(duration_ms)
            # One of the ring's coupons is a public coupon of that week.
            day = (start_ms - config.start_ms) // DAY_MS
            public = public_coupon(day, self._rng.integers(PUBLIC_COUPONS_PER_WEEK))
            self._add(
                CaseKind.COUPON_RING,
                duration_ms,
                self._rng.permutation(np.concatenate([ordinary, fresh])),
                self._devices.take(config.ring_devices),
                self._addresses.take(-(-config.ring_users // RING_USERS_PER_ADDRESS)),
                np.append(public, self._coupons.take(RING_COUPONS - 1)),
                start_ms,
            )

    def _plan_habit_changes(self) -> None:
        """Equally many changes of each kind, each from midnight on."""
        for index in range(self._config.honest_changes or 0):
            kind = HABIT_CHANGES[index % len(HABIT_CHANGES)]
            least, most = FAMILY_USERS if kind is CaseKind.HONEST_FAMILY else (1, 1)
            users = self._take_ordinary(int(self._rng.integers(least, most + 1)))
            day = int(self._rng.integers(self._first_day, self._config.days))
            self._add(
                kind,
                CHANGE_DAYS[kind] * DAY_MS,
                users,
                start_ms=self._config.start_ms + day * DAY_MS,
            )

    def _plan_campaigns(self) -> None:
        rng = self._rng
        for _ in range(self._config.campaigns or 0):
            count = int(rng.integers(*CAMPAIGN_USERS, endpoint=True))
            ordinary = self._take_ordinary(
                self._config.ordinary_members(count, rng.uniform(*CAMPAIGN_ORDINARY))
            )
            fresh = self._users.take(count - len(ordinary))
            shared = rng.random() < CAMPAIGN_SHARED_ADDRESS
            users_per_address = rng.integers(*CAMPAIGN_USERS_PER_ADDRESS) if shared else 1
            self._add(
                CaseKind.HONEST_CAMPAIGN,
                self._draw_duration_ms(CAMPAIGN_HOURS),
                rng.permutation(np.concatenate([ordinary, fresh])),
                self._devices.take(count),
                self._addresses.take(-(-count // int(users_per_address))),
                self._coupons.take(int(rng.integers(1, CAMPAIGN_COUPONS, endpoint=True))),
            )


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
