"""Ordinary users and their habits: one array per habit, one element per user.

Array shapes: U users.
"""

from __future__ import annotations

import numpy as np

from liveprofile.simulator.world import (
    CITIES,
    RandomStream,
    ShopConfig,
    World,
    draw_indices,
    random_generator,
)

# Share of users who join during the run; the others are present from the start.
NEWCOMERS = 0.2
# Visits per day are gamma-distributed over users: the NBD model (Ehrenberg, 1959).
VISITS_SHAPE = 1.2
WEEKDAYS = np.array([0.95, 0.9, 0.95, 1.0, 1.1, 1.2, 0.9])  # Monday first
# Gamma shape of the weekday factors: how much weekdays differ between users.
WEEKDAY_SHAPE = 4.0
# Relative traffic by hour of the day (UTC); each user's usual hours are drawn from it.
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
# Degrees: homes around the centre of the city, workplaces around home.
HOME_SPREAD, WORK_SPREAD = 0.06, 0.05
DEVICES_PER_USER = 4  # two, each before and after its replacement


class People:
    """Habits of U ordinary users.

    Device codes: DEVICES_PER_USER * user + 2 * (0 phone, 1 second device) + (1 if replaced), then
    one public terminal per city. Address codes: the user's own code, then U + user after a move,
    then one pick-up point per city.
    """

    def __init__(self, config: ShopConfig, world: World, events_per_visit: float):
        rng = random_generator(config.seed, RandomStream.PEOPLE)
        count = self.count = config.users
        mean = config.events_per_user_day / events_per_visit
        # The small constant keeps the sampling weights of CasePlan above zero.
        self.visits_per_day = rng.gamma(VISITS_SHAPE, mean / VISITS_SHAPE, count) + 1e-6
        weekday = WEEKDAYS * rng.gamma(WEEKDAY_SHAPE, 1 / WEEKDAY_SHAPE, (count, 7))
        self.weekday_factor = weekday * (7 / weekday.sum(axis=1, keepdims=True))
        self.hour_share = HOURS / HOURS.sum()
        self.usual_hours = draw_indices(rng, self.hour_share, (count, 2)) + rng.random((count, 2))
        joins = rng.random(count) < NEWCOMERS
        # -1: present from the start.
        self.join_day = np.where(joins, rng.integers(0, config.days, count), -1)

        self.city = world.draw_cities(rng, count)
        self.household_head = self._draw_families(rng)
        self.city = self.city[self.household_head]
        home = world.city_location[self.city] + HOME_SPREAD * rng.standard_normal((count, 2))
        self.home = home[self.household_head]
        self.work = self.home + WORK_SPREAD * rng.standard_normal((count, 2))
        self.uses_pickup = rng.random(count) < PICKUP_SHARE

        has_second = rng.random(count) < SECOND_DEVICE
        shares_device = self.household_head != np.arange(count)
        shares_device |= np.isin(np.arange(count), self.household_head[shares_device])
        # Share of visits on the phone; the others use the second device.
        self.phone_share = np.where(has_second | shares_device, rng.uniform(0.5, 0.95, count), 1.0)
        self.replacement_day = rng.exponential(DEVICE_DAYS, (count, 2)).astype(np.int64)

        # Position in a category's price range where the user buys: 0 cheapest, 1 dearest.
        self.price_tier = rng.beta(2.0, 2.5, count)
        self.categories = world.draw_categories(rng, (count, FAVOURITE_CATEGORIES))
        self.grocery_category = rng.choice(world.group_categories["grocery"], count)
        item_categories = self.categories[:, rng.integers(0, FAVOURITE_CATEGORIES, FAVOURITE_ITEMS)]
        self.items = world.draw_items(rng, item_categories, self.price_tier[:, None])
        self.typical_price = np.median(world.item_price[self.items], axis=1)
        self.shops = world.draw_shops(rng, (count, FAVOURITE_SHOPS))
        self.coupon_share = rng.beta(0.8, 5.0, count)
        self.stock_up_share = rng.beta(0.5, 16.0, count)
        self.friends = rng.integers(0, count, (count, FRIENDS))

    def _draw_families(self, rng: np.random.Generator) -> np.ndarray:
        """(U,) user whose home and second device the user shares; the user itself if none."""
        head = np.arange(self.count)
        families = int(self.count * FAMILY_SHARE) // FAMILY_SIZE
        members = rng.permutation(self.count)[: families * FAMILY_SIZE].reshape(-1, FAMILY_SIZE)
        head[members] = members[:, :1]
        return head

    def phone_codes(self, users: np.ndarray, day: int) -> np.ndarray:
        """Device code of each user's phone on the given day."""
        return DEVICES_PER_USER * users + (self.replacement_day[users, 0] <= day)

    @property
    def first_terminal(self) -> int:
        """Device code of the first city's public terminal."""
        return DEVICES_PER_USER * self.count

    @property
    def device_count(self) -> int:
        return self.first_terminal + CITIES

    @property
    def first_pickup(self) -> int:
        """Address code of the first city's pick-up point."""
        return 2 * self.count

    @property
    def address_count(self) -> int:
        return self.first_pickup + CITIES
