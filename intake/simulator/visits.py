"""Ordinary traffic of a day: who visits when, from where, and what they view, buy and return.

Array shapes: U users, V visits, L views.
"""

from typing import NamedTuple

import numpy as np

from intake.simulator.plan import CaseKind, HabitChanges
from intake.simulator.world import (
    APP,
    DEVICES_PER_USER,
    KIOSK,
    PUBLIC_COUPONS_PER_WEEK,
    PUBLIC_DISCOUNT,
    WEB,
    People,
    RandomStream,
    ShopConfig,
    World,
    blank_rows,
    draw_indices,
    public_coupon,
    random_generator,
    set_amount,
    set_item,
    set_location,
    set_type,
)
from liveprofile.units import DAY_MS, HOUR_MS

# Shares of visits around the user's first and second usual hour and at any hour; deviation in
# hours around a usual hour.
HOUR_SHARES, HOUR_SPREAD = np.array([0.55, 0.3, 0.15]), 1.2
# Views per visit, geometric: mean; in a stock-up visit a minimum and the mean above it.
VIEWS, STOCK_UP_VIEWS, STOCK_UP_EXTRA = 3.2, 5, 4
# Share of stock-up visits over all users: the mean of People.stock_up_share.
STOCK_UP_SHARE = 0.5 / 16.5
# Probability that a viewed item goes into the cart, and that a cart item is bought.
CART, STOCK_UP_CART, GIFT_CART = 0.22, 0.85, 0.35
BUY, STOCK_UP_BUY = 0.5, 0.95
FAVORITE, SHARE, FOLLOW, RETURN = 0.03, 0.02, 0.03, 0.06
LOGIN, TRAVEL_LOGIN = 0.3, 0.6
COUPON_MEAN = 0.8 / 5.8  # mean of People.coupon_share
ORDERS = 0.3  # approximate share of visits that end with an order
# Shares of the user's favourites by rank; the remainder is drawn from all.
FAVOURITE_CATEGORY = np.array([0.40, 0.22, 0.12, 0.06])
FAVOURITE_ITEM = 0.3
FAVOURITE_SHOP = np.array([0.50, 0.22, 0.13])
SEVERAL, STOCK_UP_SEVERAL = 0.12, 0.35
SINGLE_ITEM_PRICE = 100.0  # from this price on, users buy one item only
# Shares of visits at home, at work and around home.
PLACE_SHARES = np.array([0.7, 0.2, 0.1])
AROUND_HOME = 0.08  # degrees
TRAVEL, TERMINAL = 0.03, 0.015  # share of weeks; share of visits
TO_PICKUP, TO_FRIEND, GIFT_TO_FRIEND = 0.5, 0.06, 0.6
GIFT_VISITS = 2.5
# Shift of the price tier by a change of habit.
TIER_SHIFT = {
    CaseKind.HONEST_MOVE: 0.2,
    CaseKind.HONEST_GIFTS: 0.3,
    CaseKind.HONEST_RAISE: 0.3,
}
FAMILY_DEVICE = 0.8
# Seconds between views and from the last view to the checkout: median, sigma of the log.
VIEW_S, STOCK_UP_VIEW_S, VIEW_SIGMA = 40.0, 12.0, 0.9
CHECKOUT_S, CHECKOUT_SIGMA = 60.0, 0.6
# Time between two purchase events of one order, per position in the visit.
ORDER_LINE_MS = 150
# Days from a purchase to its return: median, sigma of the log.
RETURN_DAYS, RETURN_SIGMA = 6.0, 0.5


def events_per_visit() -> float:
    """Mean number of events per visit; converts a rate of events into a rate of visits."""

    def expected(views: float, cart: float, buy: float) -> float:
        bought = cart * buy
        return views * (1 + FAVORITE + SHARE + cart + bought * (1 + RETURN))

    usual = expected(VIEWS, CART, BUY)
    stock_up = expected(STOCK_UP_VIEWS + STOCK_UP_EXTRA, STOCK_UP_CART, STOCK_UP_BUY)
    coupons = COUPON_MEAN * ORDERS
    return (1 - STOCK_UP_SHARE) * usual + STOCK_UP_SHARE * stock_up + LOGIN + FOLLOW + coupons


class DayVisits(NamedTuple):
    """V visits of one day."""

    rows: np.ndarray  # (V,) values that all events of a visit share
    start_ms: np.ndarray  # (V,)
    stock_up: np.ndarray  # (V,) bool
    gifts: np.ndarray  # (V,) bool
    travelling: np.ndarray  # (V,) bool
    price_tier: np.ndarray  # (V,)
    address: np.ndarray  # (V,) delivery address of an order


class DayViews(NamedTuple):
    """L views of one day's visits."""

    rows: np.ndarray  # (L,) view events with time, item and price
    visit: np.ndarray  # (L,) index of the visit
    position: np.ndarray  # (L,) position in the visit, from 0
    visit_end_ms: np.ndarray  # (V,) time of each visit's last view


class OrdinaryTraffic:
    """Events of ordinary users, drawn day by day from the day's own random stream."""

    def __init__(self, config: ShopConfig, people: People, changes: HabitChanges, world: World):
        self._config, self._people, self._changes, self._world = config, people, changes, world

    def draw_day(self, day: int) -> np.ndarray:
        """Rows of the visits that begin on the day, in no particular order.

        A few events lie after the end of the day.
        """
        rng = random_generator(self._config.seed, RandomStream.DAY, day)
        visits = self._draw_visits(rng, day)
        views = self._draw_views(rng, visits)
        logins_and_follows = self._draw_logins_and_follows(rng, visits, views.visit_end_ms)
        return np.concatenate([*logins_and_follows, *self._draw_actions(rng, day, visits, views)])

    def _draw_visits(self, rng: np.random.Generator, day: int) -> DayVisits:
        people, kind = self._people, self._changes.kinds(day)
        weekday = (self._config.start.weekday() + day) % 7
        expected = people.visits_per_day * people.weekday_factor[:, weekday]
        expected = np.where(kind == CaseKind.HONEST_GIFTS, GIFT_VISITS, 1.0) * expected
        expected[people.join_day > day] = 0
        user = np.repeat(np.arange(people.count), rng.poisson(expected))
        count, kind = len(user), kind[user]
        which = draw_indices(rng, HOUR_SHARES, count)
        any_hour = draw_indices(rng, people.hour_share, count) + rng.random(count)
        usual_hour = people.usual_hours[user, np.minimum(which, 1)]
        usual_hour = (usual_hour + HOUR_SPREAD * rng.standard_normal(count)) % 24
        hour = np.where(which == 2, any_hour, usual_hour)
        rows = blank_rows(count)
        rows["user"] = user
        rows["case"] = self._changes.cases(day)[user]
        gifts = kind == CaseKind.HONEST_GIFTS
        travelling = self._set_device_and_location(rng, day, rows, kind)
        rank = draw_indices(rng, np.append(FAVOURITE_SHOP, 1 - FAVOURITE_SHOP.sum()), count)
        rows["shop"] = np.where(
            rank < len(FAVOURITE_SHOP),
            people.shops[user, np.minimum(rank, len(FAVOURITE_SHOP) - 1)],
            self._world.draw_shops(rng, count),
        )
        shift = np.zeros(count)
        for changed, by in TIER_SHIFT.items():
            shift[kind == changed] = by
        return DayVisits(
            rows,
            self._config.start_ms + day * DAY_MS + (hour * HOUR_MS).astype(np.int64),
            rng.random(count) < people.stock_up_share[user],
            gifts,
            travelling,
            people.price_tier[user] + shift,
            self._draw_addresses(rng, user, kind),
        )

    def _set_device_and_location(
        self, rng: np.random.Generator, day: int, rows: np.ndarray, kind: np.ndarray
    ) -> np.ndarray:
        """Sets device, channel and location in place; returns (V,) bool: the user travels."""
        people, user, count = self._people, rows["user"], len(rows)
        slot = (rng.random(count) >= people.phone_share[user]).astype(np.int64)
        owner = np.where(slot == 1, people.household_head[user], user)
        family = (kind == CaseKind.HONEST_FAMILY) & (rng.random(count) < FAMILY_DEVICE)
        slot = np.where(family, 1, slot)
        owner = np.where(family, self._changes.family_head[user], owner)
        replaced = self._changes.replacement_day[owner, slot] <= day
        at_terminal = rng.random(count) < TERMINAL
        rows["device"] = np.where(
            at_terminal,
            people.first_terminal + people.city[user],
            DEVICES_PER_USER * owner + 2 * slot + replaced,
        )
        rows["channel"] = np.where(at_terminal, KIOSK, np.where(slot == 1, WEB, APP))

        moved = np.isin(kind, (CaseKind.HONEST_MOVE, CaseKind.HONEST_FAMILY))[:, None]
        home = np.where(moved, self._changes.home[user], people.home[user])
        work = people.work[user] - people.home[user] + home
        around_home = home + AROUND_HOME * rng.standard_normal((count, 2))
        place = draw_indices(rng, PLACE_SHARES, count)[:, None]
        location = np.select([place == 0, place == 1], [home, work], around_home)
        week = random_generator(self._config.seed, RandomStream.WEEK, day // 7)
        travels = week.random(people.count) < TRAVEL
        destination = self._world.draw_cities(week, people.count)
        travelling = travels[user] & ~at_terminal
        cities = self._world.city_location
        location = np.where(travelling[:, None], cities[destination[user]], location)
        location = np.where(at_terminal[:, None], cities[people.city[user]], location)
        set_location(rng, rows, location)
        return travelling

    def _draw_addresses(
        self, rng: np.random.Generator, user: np.ndarray, kind: np.ndarray
    ) -> np.ndarray:
        """(V,) delivery address: own, pick-up point or a friend's."""
        people, count = self._people, len(user)
        own = np.select(
            [kind == CaseKind.HONEST_MOVE, kind == CaseKind.HONEST_FAMILY],
            [people.count + user, people.household_head[self._changes.family_head[user]]],
            people.household_head[user],
        )
        picked_up = people.uses_pickup[user] & (rng.random(count) < TO_PICKUP)
        own = np.where(picked_up, people.first_pickup + people.city[user], own)
        to_friend = np.where(kind == CaseKind.HONEST_GIFTS, GIFT_TO_FRIEND, TO_FRIEND)
        return np.where(rng.random(count) < to_friend, self._draw_friends(rng, user), own)

    def _draw_friends(self, rng: np.random.Generator, user: np.ndarray) -> np.ndarray:
        friends = self._people.friends
        return friends[user, rng.integers(0, friends.shape[1], len(user))]

    def _draw_views(self, rng: np.random.Generator, visits: DayVisits) -> DayViews:
        people, world = self._people, self._world
        usual = rng.geometric(1 / VIEWS, len(visits.rows))
        stock_up = STOCK_UP_VIEWS - 1 + rng.geometric(1 / (STOCK_UP_EXTRA + 1), len(visits.rows))
        counts = np.where(visits.stock_up, stock_up, usual)
        visit = np.repeat(np.arange(len(counts)), counts)
        firsts = np.cumsum(counts) - counts
        position = np.arange(len(visit)) - firsts[visit]
        median_s = np.where(visits.stock_up[visit], STOCK_UP_VIEW_S, VIEW_S)
        gap_ms = 1_000 * median_s * np.exp(VIEW_SIGMA * rng.standard_normal(len(visit)))
        elapsed_ms = np.cumsum(gap_ms.astype(np.int64))
        elapsed_before_ms = np.concatenate([[0], elapsed_ms])[firsts]
        time_ms = visits.start_ms[visit] + elapsed_ms - elapsed_before_ms[visit]
        rows = set_type(visits.rows[visit], "view", time_ms)

        user = rows["user"]
        shares = np.append(FAVOURITE_CATEGORY, 1 - FAVOURITE_CATEGORY.sum())
        rank = draw_indices(rng, shares, len(user))
        last = len(FAVOURITE_CATEGORY) - 1
        # Gifts follow the taste of others: half of them come from any category.
        elsewhere = (rank > last) | (visits.gifts[visit] & (rng.random(len(user)) < 0.5))
        category = np.where(
            elsewhere,
            world.draw_categories(rng, len(user)),
            people.categories[user, np.minimum(rank, last)],
        )
        category = np.where(visits.stock_up[visit], people.grocery_category[user], category)
        item = world.draw_items(rng, category, visits.price_tier[visit])
        again = (rng.random(len(user)) < FAVOURITE_ITEM) & ~visits.stock_up[visit] & ~elsewhere
        favourite = people.items[user, rng.integers(0, people.items.shape[1], len(user))]
        item = np.where(again, favourite, item)
        visit_end_ms = time_ms[firsts + counts - 1]
        rows = set_item(rows, item, world.item_price[item])
        return DayViews(rows, visit, position, visit_end_ms)

    def _draw_logins_and_follows(
        self, rng: np.random.Generator, visits: DayVisits, visit_end_ms: np.ndarray
    ) -> list[np.ndarray]:
        """Logins at the start and follows at the end of some visits."""
        count = len(visits.rows)
        login_share = np.where(visits.travelling, TRAVEL_LOGIN, LOGIN)
        login_share = np.where(visits.rows["channel"] == KIOSK, 1.0, login_share)
        logs_in = rng.random(count) < login_share
        follows = rng.random(count) < FOLLOW
        logins = set_type(visits.rows[logs_in], "login", visits.start_ms[logs_in])
        followed = set_type(visits.rows[follows], "follow", visit_end_ms[follows] + 5_000)
        followed["friend"] = self._draw_friends(rng, followed["user"])
        logins["shop"] = followed["shop"] = -1
        return [logins, followed]

    def _draw_actions(
        self, rng: np.random.Generator, day: int, visits: DayVisits, views: DayViews
    ) -> list[np.ndarray]:
        """The views and what follows from them: favorites, shares, carts, orders and returns."""
        viewed, visit = views.rows, views.visit
        count, stock_up = len(viewed), visits.stock_up[visit]
        time_ms = viewed["time_ms"]
        is_favorite = rng.random(count) < FAVORITE
        is_shared = rng.random(count) < SHARE
        cart = np.where(visits.gifts[visit], GIFT_CART, CART)
        in_cart = rng.random(count) < np.where(stock_up, STOCK_UP_CART, cart)
        buys = in_cart & (rng.random(count) < np.where(stock_up, STOCK_UP_BUY, BUY))
        several = rng.random(count) < np.where(stock_up, STOCK_UP_SEVERAL, SEVERAL)
        several &= viewed["price"] < SINGLE_ITEM_PRICE
        quantity = np.where(several, 1 + rng.geometric(0.6, count), 1)

        favorites = set_type(viewed[is_favorite], "favorite", time_ms[is_favorite] + 4_000)
        shares = set_type(viewed[is_shared], "share", time_ms[is_shared] + 6_000)
        shares["friend"] = self._draw_friends(rng, shares["user"])
        carts = set_type(viewed[in_cart], "cart", time_ms[in_cart] + 8_000)
        carts["quantity"] = quantity[in_cart]

        # All purchases of a visit are one order at its end: one address, at most one coupon.
        visit_count = len(visits.rows)
        wait_s = CHECKOUT_S * np.exp(CHECKOUT_SIGMA * rng.standard_normal(visit_count))
        checkout_ms = views.visit_end_ms + 8_000 + (1_000 * wait_s).astype(np.int64)
        has_order = np.zeros(visit_count, bool)
        has_order[visit[buys]] = True
        takes_coupon = rng.random(visit_count) < self._people.coupon_share[visits.rows["user"]]
        which = rng.integers(0, PUBLIC_COUPONS_PER_WEEK, visit_count)
        coupon = np.where(has_order & takes_coupon, public_coupon(day, which), -1)
        used = coupon >= 0
        coupons = set_type(visits.rows[used], "coupon", checkout_ms[used] - 3_000)
        coupons["coupon"] = coupon[used]

        bought = viewed[buys]
        order = visit[buys]
        purchase_ms = checkout_ms[order] + ORDER_LINE_MS * views.position[buys]
        bought = set_type(bought, "purchase", purchase_ms)
        bought["coupon"] = coupon[order]
        delivered = self._world.needs_address(bought["item"]) & (bought["channel"] != KIOSK)
        bought["address"] = np.where(delivered, visits.address[order], -1)
        discount = np.where(bought["coupon"] >= 0, PUBLIC_DISCOUNT, 0.0)
        bought = set_amount(bought, quantity[buys], discount)

        is_returned = rng.random(len(bought)) < RETURN
        returns = bought[is_returned]
        days = RETURN_DAYS * np.exp(RETURN_SIGMA * rng.standard_normal(len(returns)))
        return_ms = returns["time_ms"] + (days * DAY_MS).astype(np.int64)
        returns = set_type(returns, "return", return_ms)
        returns["coupon"] = returns["case"] = -1
        return [viewed, favorites, shares, carts, coupons, bought, returns]
