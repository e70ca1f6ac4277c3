"""Configuration of a simulated shop."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import IntEnum

import numpy as np

from liveprofile.errors import InputError
from liveprofile.units import DAY_MS

START = date(2024, 1, 1)
# Default number of planted cases per 10,000 users and day.
CASES_PER_10_000_USER_DAYS = {
    "takeovers": 2.0,
    "card_tests": 0.5,
    "rings": 0.2,
    "honest_changes": 5.0,
    "campaigns": 0.2,
}
# A user takes part in at most one case: the defaults plan at most one case per this many users.
USERS_PER_CASE = {
    "takeovers": 20,
    "card_tests": 20,
    "rings": 150,
    "honest_changes": 8,
    "campaigns": 150,
}
LOWEST = {
    "users": 1,
    "days": 1,
    "seed": 0,
    "takeovers": 0,
    "card_tests": 0,
    "rings": 0,
    "honest_changes": 0,
    "campaigns": 0,
    "ring_users": 1,
    "ring_devices": 1,
}


@dataclass(frozen=True)
class ShopConfig:
    """Size, period, seed and planted cases of a simulated shop.

    A case count of None becomes the default rate above. Raises InputError for a value out of
    range.
    """

    users: int
    days: int
    start: date = START
    seed: int = 0
    events_per_user_day: float = 5.0
    takeovers: int | None = None
    card_tests: int | None = None
    rings: int | None = None
    honest_changes: int | None = None
    campaigns: int | None = None
    ring_users: int = 50
    ring_devices: int = 3

    def __post_init__(self) -> None:
        for name, lowest in LOWEST.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise InputError(f"{name} = {value}: must be at least {lowest}")
        if not 0 < self.events_per_user_day <= 1_000:
            raise InputError(
                f"events_per_user_day = {self.events_per_user_day}: must be above 0, at most 1000"
            )
        if self.ring_devices > self.ring_users:
            raise InputError(
                f"ring_devices = {self.ring_devices}: must be at most ring_users"
                f" = {self.ring_users}"
            )
        for name, rate in CASES_PER_10_000_USER_DAYS.items():
            if getattr(self, name) is None:
                count = max(1, round(rate * self.users * self.days / 10_000))
                # The dataclass is frozen: plain assignment would raise.
                object.__setattr__(self, name, min(count, self.users // USERS_PER_CASE[name]))

    @property
    def start_ms(self) -> int:
        """Midnight UTC before the first event, epoch milliseconds."""
        midnight = datetime(self.start.year, self.start.month, self.start.day, tzinfo=UTC)
        return int(midnight.timestamp()) * 1_000

    @property
    def end_ms(self) -> int:
        """Exclusive upper bound of the event times, epoch milliseconds."""
        return self.start_ms + self.days * DAY_MS

    def ordinary_members(self, crowd_users: int, share: float) -> int:
        """Number of ordinary users in a crowd; at most a tenth of all ordinary users."""
        return min(int(crowd_users * share), self.users // 10)


class RandomStream(IntEnum):
    WORLD = 0
    PEOPLE = 1
    PLAN = 2
    IDS = 3  # further key: the id prefix
    DAY = 4  # further key: the day
    WEEK = 5  # further key: the week
    CASE = 6  # further key: the case number
    SCENARIO = 7


def random_generator(seed: int, stream: RandomStream, *key: int) -> np.random.Generator:
    """The random number generator of one stream."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, *key)))
