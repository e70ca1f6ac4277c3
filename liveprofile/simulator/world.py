"""What users find in the shop: items with prices, sellers, cities. The same for all users."""

from __future__ import annotations

import numpy as np

from liveprofile.simulator.streams import Stream, generator

# Group of categories: how many, median price, spread of prices (sigma of the log), share of demand.
GROUPS = {
    "credit": (2, 2.0, 0.5, 0.04),  # game credit, songs: what card testers like, and not only they
    "grocery": (16, 4.0, 0.6, 0.36),
    "home": (18, 18.0, 0.7, 0.27),
    "fashion": (14, 40.0, 0.6, 0.20),
    "electronics": (7, 180.0, 0.8, 0.10),
    "luxury": (3, 400.0, 0.6, 0.03),
}
ITEMS_PER_CATEGORY = 50
SHOPS = 400
CITIES = 120
LATITUDES, LONGITUDES = (38.0, 58.0), (-5.0, 24.0)
PUBLIC_COUPONS_A_WEEK = 3
PUBLIC_DISCOUNT, NEW_CUSTOMER_DISCOUNT = 0.10, 0.25
CHEAP = 5.0
# How far a choice strays from the user's usual part of a category's prices.
TIER_SPREAD = 0.2
# Rank r of cities and shops has a share proportional to 1 / r ** ZIPF.
ZIPF = 0.8


def zipf(count: int) -> np.ndarray:
    """(count,) shares that sum to 1."""
    weight = 1 / np.arange(1, count + 1) ** ZIPF
    return weight / weight.sum()


class World:
    """Item code = category * ITEMS_PER_CATEGORY + rank of its price within the category."""

    def __init__(self, seed: int):
        rng = generator(seed, Stream.WORLD)
        counts = [count for count, _, _, _ in GROUPS.values()]
        self.category_share = np.concatenate(
            [np.full(count, share / count) for count, _, _, share in GROUPS.values()]
        )
        self.categories = sum(counts)
        firsts = np.cumsum([0, *counts])
        self.group = {name: np.arange(firsts[at], firsts[at + 1]) for at, name in enumerate(GROUPS)}
        median = np.concatenate(
            [
                price * np.exp(0.3 * rng.standard_normal(count))
                for count, price, _, _ in GROUPS.values()
            ]
        )
        sigma = np.repeat([spread for _, _, spread, _ in GROUPS.values()], counts)
        noise = rng.standard_normal((self.categories, ITEMS_PER_CATEGORY))
        prices = np.sort(median[:, None] * np.exp(sigma[:, None] * noise), axis=1)
        self.item_price = np.maximum(np.round(prices.ravel(), 2), 0.49)
        self.items = len(self.item_price)
        self._by_price = np.argsort(self.item_price, kind="stable")
        self._sorted_prices = self.item_price[self._by_price]
        self.cheap_items = np.flatnonzero(self.item_price <= CHEAP)
        self.city = np.column_stack(
            [rng.uniform(*LATITUDES, CITIES), rng.uniform(*LONGITUDES, CITIES)]
        )
        self.city_share = zipf(CITIES)
        self.shop_share = zipf(SHOPS)

    def items_at(
        self, rng: np.random.Generator, category: np.ndarray, tier: np.ndarray
    ) -> np.ndarray:
        """Items of these categories at about that part of their prices (0 lowest, 1 highest)."""
        rank = tier + TIER_SPREAD * rng.standard_normal(category.shape)
        rank = np.clip(rank, 0, 0.999) * ITEMS_PER_CATEGORY
        return category * ITEMS_PER_CATEGORY + rank.astype(np.int64)

    def is_delivered(self, items: np.ndarray) -> np.ndarray:
        """(N,) bool: false for game credit and the like, which need no address."""
        return ~np.isin(items // ITEMS_PER_CATEGORY, self.group["credit"])

    def items_near(self, rng: np.random.Generator, price: np.ndarray) -> np.ndarray:
        """(N,) items whose price is about the wanted one, of any category."""
        at = np.searchsorted(self._sorted_prices, price) + rng.integers(-25, 26, len(price))
        return self._by_price[np.clip(at, 0, self.items - 1)]

    def some_shops(self, rng: np.random.Generator, count: int | tuple[int, ...]) -> np.ndarray:
        return pick(rng, self.shop_share, count)

    def some_cities(self, rng: np.random.Generator, count: int | tuple[int, ...]) -> np.ndarray:
        return pick(rng, self.city_share, count)

    def some_categories(self, rng: np.random.Generator, count: int | tuple[int, ...]) -> np.ndarray:
        return pick(rng, self.category_share, count)


def pick(rng: np.random.Generator, share: np.ndarray, count: int | tuple[int, ...]) -> np.ndarray:
    """Indices drawn with these shares: one uniform number each, whatever the shares."""
    # The last bound may round to less than 1.
    return np.minimum(np.searchsorted(np.cumsum(share), rng.random(count)), len(share) - 1)


def public_coupon(day: np.ndarray | int, which: np.ndarray | int) -> np.ndarray | int:
    """The code of one of the coupons that anyone may use in the day's week."""
    return day // 7 * PUBLIC_COUPONS_A_WEEK + which
