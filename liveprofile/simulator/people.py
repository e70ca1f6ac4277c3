"""Ordinary users and their habits, drawn once: one array a habit, one place a user."""

from __future__ import annotations

import numpy as np

from liveprofile.simulator.config import Config
from liveprofile.simulator.streams import Stream, generator
from liveprofile.simulator.world import CITIES, World, pick

# Share of users that join during the run; the others were there before.
NEWCOMERS = 0.2
# Visits a day differ between users as a gamma distribution: the NBD model (Ehrenberg, 1959).
VISITS_SHAPE = 1.2
WEEKDAYS = np.array([0.95, 0.9, 0.95, 1.0, 1.1, 1.2, 0.9])  # Monday first
# How much weekdays differ from user to user: the shape of a gamma distribution.
WEEKDAY_SHAPE = 4.0
# Relative traffic by hour of the day (UTC), from which each user's own hours are drawn.
HOURS = np.array(
    [3, 2, 1, 1, 1, 2, 5, 9, 11, 11, 11, 12, 14, 13, 11, 11, 12, 14, 17, 20, 22, 19, 13, 7], float
)
FAVOURITE_CATEGORIES, FAVOURITE_ITEMS, FAVOURITE_SHOPS, FRIENDS = 4, 8, 3, 4
SECOND_DEVICE = 0.45
# Mean days until a device is replaced.
DEVICE_DAYS = 600
# Households whose members share one address and one device at home.
FAMILY_SHARE, FAMILY_SIZE = 0.12, 3
PICKUP_SHARE = 0.10
HOME_SPREAD, WORK_SPREAD = 0.06, 0.05  # degrees, about the city's centre and about home
DEVICES_A_USER = 4  # two, each before and after its replacement


class People:
    """U users.

    Codes: device of user u = DEVICES_A_USER * u + 2 * (0 phone, 1 second) + (1 if replaced), then
    one public terminal a city; address u, then U + u after a move, then one pick-up point a city.
    """

    def __init__(self, config: Config, world: World, events_per_visit: float):
        rng = generator(config.seed, Stream.PEOPLE)
        count = self.count = config.users
        mean = config.events_per_user_day / events_per_visit
        # The least rate keeps weights above zero.
        self.visits_per_day = rng.gamma(VISITS_SHAPE, mean / VISITS_SHAPE, count) + 1e-6
        weekday = WEEKDAYS * rng.gamma(WEEKDAY_SHAPE, 1 / WEEKDAY_SHAPE, (count, 7))
        self.weekday = weekday * (7 / weekday.sum(axis=1, keepdims=True))
        self.hour_share = HOURS / HOURS.sum()
        self.hours = pick(rng, self.hour_share, (count, 2)) + rng.random((count, 2))
        joins = rng.random(count) < NEWCOMERS
        self.joined = np.where(joins, rng.integers(0, config.days, count), -1)

        self.city = world.some_cities(rng, count)
        self.head = self._families(rng)
        self.city = self.city[self.head]
        home = world.city[self.city] + HOME_SPREAD * rng.standard_normal((count, 2))
        self.home = home[self.head]
        self.work = self.home + WORK_SPREAD * rng.standard_normal((count, 2))
        self.uses_pickup = rng.random(count) < PICKUP_SHARE

        second = rng.random(count) < SECOND_DEVICE
        shares = self.head != np.arange(count)
        shares |= np.isin(np.arange(count), self.head[shares])
        self.phone_share = np.where(second | shares, rng.uniform(0.5, 0.95, count), 1.0)
        self.replaced = rng.exponential(DEVICE_DAYS, (count, 2)).astype(np.int64)

        # Where in a category's range of prices the user buys: 0 the cheapest, 1 the dearest.
        self.tier = rng.beta(2.0, 2.5, count)
        self.categories = world.some_categories(rng, (count, FAVOURITE_CATEGORIES))
        self.grocery = rng.choice(world.group["grocery"], count)
        kinds = self.categories[:, rng.integers(0, FAVOURITE_CATEGORIES, FAVOURITE_ITEMS)]
        self.items = world.items_at(rng, kinds, self.tier[:, None])
        self.typical_price = np.median(world.item_price[self.items], axis=1)
        self.shops = world.some_shops(rng, (count, FAVOURITE_SHOPS))
        self.coupon_share = rng.beta(0.8, 5.0, count)
        self.bulk_share = rng.beta(0.5, 16.0, count)
        self.friends = rng.integers(0, count, (count, FRIENDS))

    def _families(self, rng: np.random.Generator) -> np.ndarray:
        """(U,) the user whose home and second device each user shares: mostly their own."""
        head = np.arange(self.count)
        families = int(self.count * FAMILY_SHARE) // FAMILY_SIZE
        members = rng.permutation(self.count)[: families * FAMILY_SIZE].reshape(-1, FAMILY_SIZE)
        head[members] = members[:, :1]
        return head

    def phones(self, users: np.ndarray, day: int) -> np.ndarray:
        """The code of each user's first device on that day."""
        return DEVICES_A_USER * users + (self.replaced[users, 0] <= day)

    @property
    def terminals(self) -> int:
        """The code of the first public terminal."""
        return DEVICES_A_USER * self.count

    @property
    def devices(self) -> int:
        return self.terminals + CITIES

    @property
    def pickups(self) -> int:
        """The code of the first pick-up point."""
        return 2 * self.count

    @property
    def addresses(self) -> int:
        return self.pickups + CITIES
