"""Which cases are planted, when, and on which users, devices, addresses and coupons."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from liveprofile.errors import InputError
from liveprofile.simulator.config import DAY_MS, Config
from liveprofile.simulator.people import People
from liveprofile.simulator.streams import Stream, generator
from liveprofile.simulator.world import PUBLIC_COUPONS_A_WEEK, public_coupon


class Kind(IntEnum):
    TAKEOVER = 0
    CARD_TEST = 1
    COUPON_RING = 2
    HONEST_MOVE = 3
    HONEST_GIFTS = 4
    HONEST_RAISE = 5
    HONEST_FAMILY = 6
    HONEST_CAMPAIGN = 7

    @property
    def label(self) -> str:
        """As in the labels: takeover, honest_move ..."""
        return self.name.lower()

    @property
    def fraud(self) -> bool:
        return self <= Kind.COUPON_RING


# Changes of habit; the other kinds have events of their own.
CHANGES = (Kind.HONEST_MOVE, Kind.HONEST_GIFTS, Kind.HONEST_RAISE, Kind.HONEST_FAMILY)
# Days from an event to its label: median; the log of the delay has the deviation DELAY_SIGMA.
DELAY_DAYS = {Kind.TAKEOVER: 3, Kind.CARD_TEST: 2, Kind.COUPON_RING: 14} | dict.fromkeys(
    (*CHANGES, Kind.HONEST_CAMPAIGN), 2
)
DELAY_SIGMA = 0.7
# How long a change of habit counts as one, in days.
CHANGE_DAYS = {
    Kind.HONEST_MOVE: 14, Kind.HONEST_GIFTS: 8, Kind.HONEST_RAISE: 30, Kind.HONEST_FAMILY: 30,
}  # fmt: skip
# No case begins in the first days (a third of the run at most): there must be habits first.
QUIET_DAYS = 7
TAKEOVER_HOURS, CARD_TEST_MINUTES, RING_HOURS = 1.5, 15, (24, 120)
# Devices and addresses of thieves are used again: for ten takeovers so many.
TAKEOVER_DEVICES, TAKEOVER_ADDRESSES = 8, 6
CARD_TEST_ACCOUNTS, CARD_TEST_DEVICES = 10, 3
CARD_TEST_STOLEN_ACCOUNT = 0.3
RING_USERS_PER_ADDRESS = 12
RING_COUPONS = 3
# The part of a ring's users that were ordinary users before: accounts bought or lent.
RING_ORDINARY = 0.3
CAMPAIGN_USERS, CAMPAIGN_ORDINARY, CAMPAIGN_COUPONS = (20, 120), (0.1, 0.5), 3
CAMPAIGN_HOURS = (12, 120)
# Of campaigns whose users live together so many to an address; the others have one each.
CAMPAIGN_TOGETHER, CAMPAIGN_USERS_PER_ADDRESS = 0.5, (4, 25)
FAMILY = (2, 4)


class Case(NamedTuple):
    """Codes of what a case uses; a change of habit has users only."""

    number: int
    kind: Kind
    start_ms: int
    span_ms: int
    delay_ms: int
    users: np.ndarray
    devices: np.ndarray
    addresses: np.ndarray
    coupons: np.ndarray


class Sizes(NamedTuple):
    """How many codes of each kind there are, the planted ones included."""

    users: int
    devices: int
    addresses: int
    coupons: int


class _Codes:
    """Hands out codes that nobody has yet."""

    def __init__(self, first: int):
        self.next = first

    def take(self, count: int) -> np.ndarray:
        self.next += count
        return np.arange(self.next - count, self.next)


class Plan:
    """Raises InputError if there are too few users for so many cases."""

    def __init__(self, config: Config, people: People):
        self._config = config
        self._rng = generator(config.seed, Stream.PLAN)
        self._pool = self._candidates(people)
        self._needed = 0
        self._users = _Codes(people.count)
        self._devices = _Codes(people.devices)
        self._addresses = _Codes(people.addresses)
        self._coupons = _Codes(((config.days - 1) // 7 + 1) * PUBLIC_COUPONS_A_WEEK)
        self.cases: list[Case] = []
        self._plan_takeovers()
        self._plan_card_tests()
        self._plan_rings()
        self._plan_changes()
        self._plan_campaigns()
        if self._needed > len(self._pool):
            raise InputError(
                f"users = {config.users}: the planted cases need {self._needed} users who are there"
                f" from the start, and there are {len(self._pool)}: take more users or fewer cases"
            )
        self.sizes = Sizes(
            self._users.next, self._devices.next, self._addresses.next, self._coupons.next
        )

    def _candidates(self, people: People) -> np.ndarray:
        """Users there from the start in random order, busy ones sooner.

        Weighted sampling without replacement by Efraimidis and Spirakis (2006).
        """
        keys = self._rng.standard_exponential(people.count) / people.visits_per_day
        order = np.argsort(keys, kind="stable")
        return order[people.joined[order] < 0]

    def _ordinary(self, count: int) -> np.ndarray:
        self._needed += count
        return self._pool[self._needed - count : self._needed]

    def _add(
        self,
        kind: Kind,
        span_ms: int,
        users: np.ndarray,
        devices: np.ndarray | None = None,
        addresses: np.ndarray | None = None,
        coupons: np.ndarray | None = None,
        start_ms: int | None = None,
    ) -> None:
        none = np.empty(0, np.int64)
        delay_days = DELAY_DAYS[kind] * np.exp(DELAY_SIGMA * self._rng.standard_normal())
        self.cases.append(
            Case(
                len(self.cases),
                kind,
                self._start_ms(span_ms) if start_ms is None else start_ms,
                span_ms,
                int(delay_days * DAY_MS),
                users,
                none if devices is None else devices,
                none if addresses is None else addresses,
                none if coupons is None else coupons,
            )
        )

    @property
    def _first_day(self) -> int:
        return min(QUIET_DAYS, self._config.days // 3)

    def _start_ms(self, span_ms: int) -> int:
        """Early enough for the whole case to lie in the run."""
        first_ms = self._config.start_ms + self._first_day * DAY_MS
        return first_ms + int(self._rng.random() * (self._config.end_ms - first_ms - span_ms))

    def _span_ms(self, hours: tuple[int, int]) -> int:
        room_ms = (self._config.days - self._first_day) * DAY_MS // 2
        return min(int(self._rng.uniform(*hours) * 3_600_000), room_ms)

    def _plan_takeovers(self) -> None:
        count = self._config.takeovers or 0
        devices = self._devices.take(-(-count * TAKEOVER_DEVICES // 10))
        addresses = self._addresses.take(-(-count * TAKEOVER_ADDRESSES // 10))
        for _ in range(count):
            self._add(
                Kind.TAKEOVER,
                int(TAKEOVER_HOURS * 3_600_000),
                self._ordinary(1),
                self._rng.choice(devices, 1),
                self._rng.choice(addresses, 1),
            )

    def _plan_card_tests(self) -> None:
        for _ in range(self._config.card_tests or 0):
            stolen = self._rng.random() < CARD_TEST_STOLEN_ACCOUNT
            accounts = min(int(self._rng.geometric(0.35)), CARD_TEST_ACCOUNTS)
            users = self._ordinary(1) if stolen else self._users.take(accounts)
            devices = self._devices.take(CARD_TEST_DEVICES)
            self._add(Kind.CARD_TEST, CARD_TEST_MINUTES * 60_000, users, devices)

    def _plan_rings(self) -> None:
        config = self._config
        for _ in range(config.rings or 0):
            honest = self._ordinary(config.ordinary_of(config.ring_users, RING_ORDINARY))
            fresh = self._users.take(config.ring_users - len(honest))
            span_ms = self._span_ms(RING_HOURS)
            start_ms = self._start_ms(span_ms)
            # One coupon is one that anybody may use that week.
            day = (start_ms - config.start_ms) // DAY_MS
            public = public_coupon(day, self._rng.integers(PUBLIC_COUPONS_A_WEEK))
            self._add(
                Kind.COUPON_RING,
                span_ms,
                self._rng.permutation(np.concatenate([honest, fresh])),
                self._devices.take(config.ring_devices),
                self._addresses.take(-(-config.ring_users // RING_USERS_PER_ADDRESS)),
                np.append(public, self._coupons.take(RING_COUPONS - 1)),
                start_ms,
            )

    def _plan_changes(self) -> None:
        """As many of each kind as of the others; at midnight, for days."""
        for at in range(self._config.honest_changes or 0):
            kind = CHANGES[at % len(CHANGES)]
            first, last = FAMILY if kind is Kind.HONEST_FAMILY else (1, 1)
            users = self._ordinary(int(self._rng.integers(first, last + 1)))
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
            ordinary = self._ordinary(
                self._config.ordinary_of(count, rng.uniform(*CAMPAIGN_ORDINARY))
            )
            fresh = self._users.take(count - len(ordinary))
            together = rng.random() < CAMPAIGN_TOGETHER
            to_an_address = rng.integers(*CAMPAIGN_USERS_PER_ADDRESS) if together else 1
            self._add(
                Kind.HONEST_CAMPAIGN,
                self._span_ms(CAMPAIGN_HOURS),
                rng.permutation(np.concatenate([ordinary, fresh])),
                self._devices.take(count),
                self._addresses.take(-(-count // int(to_an_address))),
                self._coupons.take(int(rng.integers(1, CAMPAIGN_COUPONS, endpoint=True))),
            )
