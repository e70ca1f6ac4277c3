"""The shop: configuration, random streams, items with prices, sellers, cities, people, event rows.

Event rows are numpy rows whose ids are integer codes; -1 or NaN marks a missing value. The `set_*`
functions change the rows in place and return them. Array shapes: N items, draws or
rows, U users.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import IntEnum

import numpy as np

from liveprofile.errors import InputError
from liveprofile.units import DAY_MS
from liveprofile.wire.tokens import TYPE_INDEX

START = date(2024, 1, 1)
# Of each kind of planted case: the default number per 10,000 users and day, and how many users
# there must be for each. A user takes part in at most one case.
DEFAULT_CASES = {
    "takeovers": (2.0, 20),
    "card_tests": (0.5, 20),
    "rings": (0.2, 150),
    "honest_changes": (5.0, 8),
    "campaigns": (0.2, 150),
}
LOWEST = dict.fromkeys(("users", "days", "ring_users", "ring_devices"), 1)
LOWEST |= dict.fromkeys(("seed", *DEFAULT_CASES), 0)


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
        for name, (rate, users_per_case) in DEFAULT_CASES.items():
            if getattr(self, name) is None:
                count = max(1, round(rate * self.users * self.days / 10_000))
                # The dataclass is frozen: plain assignment would raise.
                object.__setattr__(self, name, min(count, self.users // users_per_case))

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


CHANNELS = ("app", "web", "shop")
APP, WEB, KIOSK = range(3)
GPS_NOISE = 0.0008  # degrees, standard deviation

ROW = np.dtype(
    [
        ("time_ms", np.int64),
        ("user", np.int32),
        ("type", np.int8),  # index in EVENT_TYPES
        ("item", np.int32),
        ("price", np.float64),  # of one item, currency
        ("quantity", np.int16),
        ("amount", np.float64),  # currency
        ("device", np.int32),
        ("lat", np.float64),  # degrees
        ("lon", np.float64),
        ("coupon", np.int32),
        ("channel", np.int8),  # index in CHANNELS
        ("shop", np.int32),
        ("address", np.int32),
        ("friend", np.int32),
        ("case", np.int32),  # number of the planted case
    ]
)
_BLANK = np.array(
    [tuple(np.nan if ROW[name].kind == "f" else -1 for name in ROW.names or ())], dtype=ROW
)


def blank_rows(count: int) -> np.ndarray:
    """(count,) rows with all values missing."""
    return np.repeat(_BLANK, count)


def set_type(rows: np.ndarray, event_type: str, time_ms: np.ndarray) -> np.ndarray:
    """Sets the event type and the (N,) times."""
    rows["type"] = TYPE_INDEX[event_type]
    rows["time_ms"] = time_ms
    return rows


def set_item(rows: np.ndarray, item: np.ndarray, price: np.ndarray) -> np.ndarray:
    """Sets the (N,) item codes and prices."""
    rows["item"], rows["price"] = item, price
    return rows


def set_location(rng: np.random.Generator, rows: np.ndarray, location: np.ndarray) -> np.ndarray:
    """Sets the location, (2,) or (N, 2) degrees, with GPS noise."""
    noisy = location + GPS_NOISE * rng.standard_normal((len(rows), 2))
    rows["lat"], rows["lon"] = np.round(noisy, 5).T
    return rows


def set_amount(
    rows: np.ndarray, quantity: np.ndarray | int, discount: np.ndarray | float
) -> np.ndarray:
    """Sets quantity and amount = price * quantity * (1 - discount); discount is 0..1."""
    rows["quantity"] = quantity
    rows["amount"] = np.round(rows["price"] * rows["quantity"] * (1 - discount), 2)
    return rows
