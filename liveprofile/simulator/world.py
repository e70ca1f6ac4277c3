"""The static part of the shop, the same for all users: items with prices, sellers, cities.

Array shapes: N items or draws.
"""

from __future__ import annotations

import numpy as np

from liveprofile.simulator.config import RandomStream, random_generator

# Category group: categories, median price, sigma of log price, share of demand.
GROUPS = {
    "credit": (2, 2.0, 0.5, 0.04),  # game credit, songs: card testers and honest users buy them
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
PUBLIC_COUPONS_PER_WEEK = 3
PUBLIC_DISCOUNT, NEW_CUSTOMER_DISCOUNT = 0.10, 0.25
CHEAP_PRICE = 5.0
# Standard deviation of a chosen item's price rank around the user's price tier.
TIER_SPREAD = 0.2
# The share of the city or shop at rank r is proportional to 1 / r ** ZIPF_EXPONENT.
ZIPF_EXPONENT = 0.8


def zipf_shares(count: int) -> np.ndarray:
    """(count,) Zipf shares that sum to 1."""
    weight = 1 / np.arange(1, count + 1) ** ZIPF_EXPONENT
    return weight / weight.sum()


class World:
    """Items, categories, sellers and cities of one seed.

    Item code = category * ITEMS_PER_CATEGORY + rank of the item's price within its category.
    """

    def __init__(self, seed: int):
        rng = random_generator(seed, RandomStream.WORLD)
        counts = [count for count, _, _, _ in GROUPS.values()]
        self.category_share = np.concatenate(
            [np.full(count, share / count) for count, _, _, share in GROUPS.values()]
        )
        self.category_count = sum(counts)
        firsts = np.cumsum([0, *counts])
        self.group_categories = {
            name: np.arange(firsts[index], firsts[index + 1]) for index, name in enumerate(GROUPS)
        }
        median = np.concatenate(
            [
                price * np.exp(0.3 * rng.standard_normal(count))
                for count, price, _, _ in GROUPS.values()
            ]
        )
        sigma = np.repeat([spread for _, _, spread, _ in GROUPS.values()], counts)
        noise = rng.standard_normal((self.category_count, ITEMS_PER_CATEGORY))
        prices = np.sort(median[:, None] * np.exp(sigma[:, None] * noise), axis=1)
        self.item_price = np.maximum(np.round(prices.ravel(), 2), 0.49)
        self.item_count = len(self.item_price)
        self._by_price = np.argsort(self.item_price, kind="stable")
        self._sorted_prices = self.item_price[self._by_price]
        self.cheap_items = np.flatnonzero(self.item_price <= CHEAP_PRICE)
        self.city_location = np.column_stack(
            [rng.uniform(*LATITUDES, CITIES), rng.uniform(*LONGITUDES, CITIES)]
        )
        self.city_share = zipf_shares(CITIES)
        self.shop_share = zipf_shares(SHOPS)

    def draw_items(
        self, rng: np.random.Generator, category: np.ndarray, price_tier: np.ndarray
    ) -> np.ndarray:
        """Items of these categories near a price tier (0 cheapest, 1 dearest in the category)."""
        rank = price_tier + TIER_SPREAD * rng.standard_normal(category.shape)
        rank = np.clip(rank, 0, 0.999) * ITEMS_PER_CATEGORY
        return category * ITEMS_PER_CATEGORY + rank.astype(np.int64)

    def draw_items_near_price(self, rng: np.random.Generator, price: np.ndarray) -> np.ndarray:
        """(N,) items of any category whose price is close to the given one."""
        index = np.searchsorted(self._sorted_prices, price) + rng.integers(-25, 26, len(price))
        return self._by_price[np.clip(index, 0, self.item_count - 1)]

    def needs_address(self, items: np.ndarray) -> np.ndarray:
        """(N,) bool: False for digital goods such as game credit, which are not delivered."""
        return ~np.isin(items // ITEMS_PER_CATEGORY, self.group_categories["credit"])

    def draw_shops(self, rng: np.random.Generator, count: int | tuple[int, ...]) -> np.ndarray:
        return draw_indices(rng, self.shop_share, count)

    def draw_cities(self, rng: np.random.Generator, count: int | tuple[int, ...]) -> np.ndarray:
        return draw_indices(rng, self.city_share, count)

    def draw_categories(self, rng: np.random.Generator, count: int | tuple[int, ...]) -> np.ndarray:
        return draw_indices(rng, self.category_share, count)


def draw_indices(
    rng: np.random.Generator, share: np.ndarray, count: int | tuple[int, ...]
) -> np.ndarray:
    """Indices with the given probabilities; consumes one uniform number per index."""
    # The cumulative sum may round to less than 1.
    return np.minimum(np.searchsorted(np.cumsum(share), rng.random(count)), len(share) - 1)


def public_coupon(day: np.ndarray | int, which: np.ndarray | int) -> np.ndarray | int:
    """Code of public coupon `which` (0 to PUBLIC_COUPONS_PER_WEEK - 1) of the day's week."""
    return day // 7 * PUBLIC_COUPONS_PER_WEEK + which
