"""An ordinary day: who visits when, from where, and what they look at, buy and return."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from liveprofile.simulator import rows as events
from liveprofile.simulator.changes import Changes
from liveprofile.simulator.config import DAY_MS, Config
from liveprofile.simulator.people import DEVICES_A_USER, People
from liveprofile.simulator.plan import Kind
from liveprofile.simulator.rows import APP, KIOSK, WEB
from liveprofile.simulator.streams import Stream, generator
from liveprofile.simulator.world import (
    PUBLIC_COUPONS_A_WEEK,
    PUBLIC_DISCOUNT,
    World,
    pick,
    public_coupon,
)

# A visit: hours about one of the user's two (deviation in hours), or any hour of the day.
HOUR_SHARES, HOUR_SPREAD = np.array([0.55, 0.3, 0.15]), 1.2
# Looks a visit: geometric; in a stock-up visit at least BULK_LOOKS.
LOOKS, BULK_LOOKS, BULK_EXTRA = 3.2, 5, 4
# Share of stock-up visits over all users: the mean of People.bulk_share.
BULK_SHARE = 0.5 / 16.5
CART, BULK_CART, GIFT_CART = 0.22, 0.85, 0.35
BUY, BULK_BUY = 0.5, 0.95
FAVORITE, SHARE, FOLLOW, RETURN = 0.03, 0.02, 0.03, 0.06
LOGIN, TRAVEL_LOGIN = 0.3, 0.6
COUPON_MEAN = 0.8 / 5.8  # of People.coupon_share
ORDERS = 0.3  # about this share of visits ends with an order
USUAL_CATEGORY = np.array([0.40, 0.22, 0.12, 0.06])  # the rest: any category
USUAL_ITEM = 0.3
USUAL_SHOP = np.array([0.50, 0.22, 0.13])  # the rest: any shop
MORE_THAN_ONE, BULK_MORE = 0.12, 0.35
DEAR = 100.0  # of what costs more nobody takes two
# Where: at home, at work, else about home.
PLACE_SHARES = np.array([0.7, 0.2, 0.1])
WANDER = 0.08  # degrees
TRAVEL, TERMINAL = 0.03, 0.015  # share of weeks; of visits
TO_PICKUP, TO_FRIEND, GIFT_TO_FRIEND = 0.5, 0.06, 0.6
GIFT_VISITS = 2.5
# How far a change moves the user up in prices.
TIER_SHIFT = {Kind.HONEST_MOVE: 0.2, Kind.HONEST_GIFTS: 0.3, Kind.HONEST_RAISE: 0.3}
FAMILY_DEVICE = 0.8
# Seconds between looks (median, sigma of the log), and to the checkout; days to a return.
LOOK_S, BULK_LOOK_S, LOOK_SIGMA = 40.0, 12.0, 0.9
CHECKOUT_S, CHECKOUT_SIGMA = 60.0, 0.6
LINE_MS = 150
RETURN_DAYS, RETURN_SIGMA = 6.0, 0.5


def events_per_visit() -> float:
    """How many events a visit has on average: what turns a rate of events into one of visits."""

    def expected(looks: float, cart: float, buy: float) -> float:
        bought = cart * buy
        return looks * (1 + FAVORITE + SHARE + cart + bought * (1 + RETURN))

    usual = expected(LOOKS, CART, BUY)
    bulk = expected(BULK_LOOKS + BULK_EXTRA, BULK_CART, BULK_BUY)
    coupons = COUPON_MEAN * ORDERS
    return (1 - BULK_SHARE) * usual + BULK_SHARE * bulk + LOGIN + FOLLOW + coupons


class Visits(NamedTuple):
    """V visits of one day."""

    rows: np.ndarray  # (V,) who, device, place, channel, shop, case: what their events share
    start_ms: np.ndarray  # (V,)
    bulk: np.ndarray  # (V,) bool
    gifts: np.ndarray  # (V,) bool
    away: np.ndarray  # (V,) bool, travelling
    tier: np.ndarray  # (V,)
    address: np.ndarray  # (V,) where an order goes


class Ordinary:
    """What ordinary users do on a day, drawn from the day's own stream."""

    def __init__(self, config: Config, people: People, changes: Changes, world: World):
        self._config, self._people, self._changes, self._world = config, people, changes, world

    def day(self, day: int) -> np.ndarray:
        """Events that begin on the day, in no order; a few lie after its end."""
        rng = generator(self._config.seed, Stream.DAY, day)
        visits = self._visits(rng, day)
        looked, visit, end_ms, line = self._looks(rng, visits)
        started = self._starts_and_ends(rng, visits, end_ms)
        return np.concatenate(
            [*started, *self._of_looks(rng, day, visits, looked, visit, end_ms, line)]
        )

    def _visits(self, rng: np.random.Generator, day: int) -> Visits:
        people, kind = self._people, self._changes.kinds(day)
        weekday = (self._config.start.weekday() + day) % 7
        expected = people.visits_per_day * people.weekday[:, weekday]
        expected = np.where(kind == Kind.HONEST_GIFTS, GIFT_VISITS, 1.0) * expected
        expected[people.joined > day] = 0
        user = np.repeat(np.arange(people.count), rng.poisson(expected))
        count, kind = len(user), kind[user]
        which = pick(rng, HOUR_SHARES, count)
        any_hour = pick(rng, people.hour_share, count) + rng.random(count)
        own_hour = people.hours[user, np.minimum(which, 1)]
        own_hour = (own_hour + HOUR_SPREAD * rng.standard_normal(count)) % 24
        hour = np.where(which == 2, any_hour, own_hour)
        rows = events.blank(count)
        rows["user"] = user
        rows["case"] = self._changes.cases(day)[user]
        gifts = kind == Kind.HONEST_GIFTS
        away = self._where(rng, day, rows, kind)
        usual = pick(rng, np.append(USUAL_SHOP, 1 - USUAL_SHOP.sum()), count)
        rows["shop"] = np.where(
            usual < len(USUAL_SHOP),
            people.shops[user, np.minimum(usual, len(USUAL_SHOP) - 1)],
            self._world.some_shops(rng, count),
        )
        shift = np.zeros(count)
        for changed, by in TIER_SHIFT.items():
            shift[kind == changed] = by
        return Visits(
            rows,
            self._config.start_ms + day * DAY_MS + (hour * 3_600_000).astype(np.int64),
            rng.random(count) < people.bulk_share[user],
            gifts,
            away,
            people.tier[user] + shift,
            self._addresses(rng, user, kind),
        )

    def _where(
        self, rng: np.random.Generator, day: int, rows: np.ndarray, kind: np.ndarray
    ) -> np.ndarray:
        """Fills in device, channel and place; returns who is travelling."""
        people, user, count = self._people, rows["user"], len(rows)
        slot = (rng.random(count) >= people.phone_share[user]).astype(np.int64)
        owner = np.where(slot == 1, people.head[user], user)
        family = (kind == Kind.HONEST_FAMILY) & (rng.random(count) < FAMILY_DEVICE)
        slot = np.where(family, 1, slot)
        owner = np.where(family, self._changes.head[user], owner)
        replaced = self._changes.replaced[owner, slot] <= day
        at_terminal = rng.random(count) < TERMINAL
        rows["device"] = np.where(
            at_terminal,
            people.terminals + people.city[user],
            DEVICES_A_USER * owner + 2 * slot + replaced,
        )
        rows["channel"] = np.where(at_terminal, KIOSK, np.where(slot == 1, WEB, APP))

        moved = np.isin(kind, (Kind.HONEST_MOVE, Kind.HONEST_FAMILY))[:, None]
        home = np.where(moved, self._changes.home[user], people.home[user])
        work = people.work[user] - people.home[user] + home
        about = home + WANDER * rng.standard_normal((count, 2))
        spot = pick(rng, PLACE_SHARES, count)[:, None]
        place = np.select([spot == 0, spot == 1], [home, work], about)
        week = generator(self._config.seed, Stream.WEEK, day // 7)
        travels = week.random(people.count) < TRAVEL
        city = self._world.some_cities(week, people.count)
        away = travels[user] & ~at_terminal
        place = np.where(away[:, None], self._world.city[city[user]], place)
        place = np.where(at_terminal[:, None], self._world.city[people.city[user]], place)
        events.at(rng, rows, place)
        return away

    def _addresses(
        self, rng: np.random.Generator, user: np.ndarray, kind: np.ndarray
    ) -> np.ndarray:
        people, count = self._people, len(user)
        own = np.select(
            [kind == Kind.HONEST_MOVE, kind == Kind.HONEST_FAMILY],
            [people.count + user, people.head[self._changes.head[user]]],
            people.head[user],
        )
        picked_up = people.uses_pickup[user] & (rng.random(count) < TO_PICKUP)
        own = np.where(picked_up, people.pickups + people.city[user], own)
        to_friend = np.where(kind == Kind.HONEST_GIFTS, GIFT_TO_FRIEND, TO_FRIEND)
        return np.where(rng.random(count) < to_friend, self._friends(rng, user), own)

    def _friends(self, rng: np.random.Generator, user: np.ndarray) -> np.ndarray:
        friends = self._people.friends
        return friends[user, rng.integers(0, friends.shape[1], len(user))]

    def _looks(
        self, rng: np.random.Generator, visits: Visits
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """L looks: their rows with time, item and price (L,), the visit (L,), the visits' ends
        (V,), and the place in the visit (L,)."""
        people, world = self._people, self._world
        usual = rng.geometric(1 / LOOKS, len(visits.rows))
        bulk = BULK_LOOKS - 1 + rng.geometric(1 / (BULK_EXTRA + 1), len(visits.rows))
        counts = np.where(visits.bulk, bulk, usual)
        visit = np.repeat(np.arange(len(counts)), counts)
        firsts = np.cumsum(counts) - counts
        line = np.arange(len(visit)) - firsts[visit]
        median_s = np.where(visits.bulk[visit], BULK_LOOK_S, LOOK_S)
        gap_ms = 1_000 * median_s * np.exp(LOOK_SIGMA * rng.standard_normal(len(visit)))
        passed = np.cumsum(gap_ms.astype(np.int64))
        before = np.concatenate([[0], passed])[firsts]
        time_ms = visits.start_ms[visit] + passed - before[visit]
        looked = events.of_type(visits.rows[visit], "view", time_ms)

        user = looked["user"]
        column = pick(rng, np.append(USUAL_CATEGORY, 1 - USUAL_CATEGORY.sum()), len(user))
        last = len(USUAL_CATEGORY) - 1
        # Gifts are for others: half of them from anywhere.
        elsewhere = (column > last) | (visits.gifts[visit] & (rng.random(len(user)) < 0.5))
        category = np.where(
            elsewhere,
            world.some_categories(rng, len(user)),
            people.categories[user, np.minimum(column, last)],
        )
        category = np.where(visits.bulk[visit], people.grocery[user], category)
        item = world.items_at(rng, category, visits.tier[visit])
        again = (rng.random(len(user)) < USUAL_ITEM) & ~visits.bulk[visit] & ~elsewhere
        own = people.items[user, rng.integers(0, people.items.shape[1], len(user))]
        item = np.where(again, own, item)
        end_ms = time_ms[firsts + counts - 1]
        return events.priced(looked, item, world.item_price[item]), visit, end_ms, line

    def _starts_and_ends(
        self, rng: np.random.Generator, visits: Visits, end_ms: np.ndarray
    ) -> list[np.ndarray]:
        count = len(visits.rows)
        login = np.where(visits.away, TRAVEL_LOGIN, LOGIN)
        login = np.where(visits.rows["channel"] == KIOSK, 1.0, login)
        logs_in = rng.random(count) < login
        follows = rng.random(count) < FOLLOW
        logins = events.of_type(visits.rows[logs_in], "login", visits.start_ms[logs_in])
        followed = events.of_type(visits.rows[follows], "follow", end_ms[follows] + 5_000)
        followed["friend"] = self._friends(rng, followed["user"])
        logins["shop"] = followed["shop"] = -1
        return [logins, followed]

    def _of_looks(
        self,
        rng: np.random.Generator,
        day: int,
        visits: Visits,
        looked: np.ndarray,
        visit: np.ndarray,
        end_ms: np.ndarray,
        line: np.ndarray,
    ) -> list[np.ndarray]:
        count, bulk = len(looked), visits.bulk[visit]
        time_ms = looked["time_ms"]
        liked = rng.random(count) < FAVORITE
        shared = rng.random(count) < SHARE
        cart = np.where(visits.gifts[visit], GIFT_CART, CART)
        in_cart = rng.random(count) < np.where(bulk, BULK_CART, cart)
        buys = in_cart & (rng.random(count) < np.where(bulk, BULK_BUY, BUY))
        more = rng.random(count) < np.where(bulk, BULK_MORE, MORE_THAN_ONE)
        more &= looked["price"] < DEAR
        quantity = np.where(more, 1 + rng.geometric(0.6, count), 1)

        favorites = events.of_type(looked[liked], "favorite", time_ms[liked] + 4_000)
        shares = events.of_type(looked[shared], "share", time_ms[shared] + 6_000)
        shares["friend"] = self._friends(rng, shares["user"])
        carts = events.of_type(looked[in_cart], "cart", time_ms[in_cart] + 8_000)
        carts["quantity"] = quantity[in_cart]

        # All that a visit buys is one order at its end: one address, at most one coupon.
        visits_count = len(visits.rows)
        wait_s = CHECKOUT_S * np.exp(CHECKOUT_SIGMA * rng.standard_normal(visits_count))
        checkout_ms = end_ms + 8_000 + (1_000 * wait_s).astype(np.int64)
        orders = np.zeros(visits_count, bool)
        orders[visit[buys]] = True
        takes = rng.random(visits_count) < self._people.coupon_share[visits.rows["user"]]
        which = rng.integers(0, PUBLIC_COUPONS_A_WEEK, visits_count)
        coupon = np.where(orders & takes, public_coupon(day, which), -1)
        used = coupon >= 0
        coupons = events.of_type(visits.rows[used], "coupon", checkout_ms[used] - 3_000)
        coupons["coupon"] = coupon[used]

        bought = looked[buys]
        order = visit[buys]
        bought = events.of_type(bought, "purchase", checkout_ms[order] + LINE_MS * line[buys])
        bought["coupon"] = coupon[order]
        carried = self._world.is_delivered(bought["item"]) & (bought["channel"] != KIOSK)
        bought["address"] = np.where(carried, visits.address[order], -1)
        discount = np.where(bought["coupon"] >= 0, PUBLIC_DISCOUNT, 0.0)
        bought = events.bought(bought, quantity[buys], discount)

        back = rng.random(len(bought)) < RETURN
        returns = bought[back]
        days = RETURN_DAYS * np.exp(RETURN_SIGMA * rng.standard_normal(len(returns)))
        after_ms = returns["time_ms"] + (days * DAY_MS).astype(np.int64)
        returns = events.of_type(returns, "return", after_ms)
        returns["coupon"] = returns["case"] = -1
        return [looked, favorites, shares, carts, coupons, bought, returns]
