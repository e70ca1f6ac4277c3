"""Many users who come for one coupon: coupon rings, and the honest crowds of campaigns."""

from __future__ import annotations

import numpy as np

from liveprofile.simulator import rows as events
from liveprofile.simulator.config import DAY_MS, Config
from liveprofile.simulator.people import HOME_SPREAD, People
from liveprofile.simulator.plan import Case
from liveprofile.simulator.rows import APP, WEB
from liveprofile.simulator.world import NEW_CUSTOMER_DISCOUNT, World

MOST_PURCHASES, NO_COUPON, CROWD_LOGIN = 3, 0.15, 0.5
RING_OTHER_DEVICE = 0.1
RING_PRICE, RING_PRICE_SIGMA, RING_SHOPS = 30.0, 0.6, 2
# Campaign: the median price lies in these bounds; one to so many shops; how soon the crowd comes
# (the power of a uniform number: 1 evenly).
CAMPAIGN_PRICE, CAMPAIGN_PRICE_SIGMA, CAMPAIGN_SHOPS = (12.0, 60.0), 0.7, 3
CAMPAIGN_RUSH = (1.0, 2.5)
# Where its new users are: at one spot (a hall, a firm), about one city, else each in a city.
ONE_SPOT, ONE_CITY = 0.5, 0.25
COUPLES, CAMPAIGN_APP, CAMPAIGN_SHARE = 0.05, 0.5, 0.1
LOOK_MS = 45_000


def ring(rng: np.random.Generator, case: Case, world: World) -> np.ndarray:
    """The ring's purchases with the coupon uses before most and logins before some of them."""
    bought = ring_purchases(rng, case, world)
    other = rng.random(len(bought)) < RING_OTHER_DEVICE
    bought["device"] = np.where(other, rng.choice(case.devices, len(bought)), bought["device"])
    return np.concatenate([bought, *_coupons_and_logins(rng, bought)])


def ring_purchases(rng: np.random.Generator, case: Case, world: World) -> np.ndarray:
    """Each of the case's users buys one to three times within its span, with one of its coupons.

    Users share the devices and the addresses in equal parts; the devices move no random number, so
    the same stream with others gives the same purchases.
    """
    members = len(case.users)
    member = _members(rng, members)
    count = len(member)
    rows = events.blank(count)
    rows["user"] = case.users[member]
    rows["device"] = case.devices[member * len(case.devices) // members]
    rows["channel"] = WEB
    rows["shop"] = rng.choice(world.some_shops(rng, RING_SHOPS), count)
    price = RING_PRICE * np.exp(RING_PRICE_SIGMA * rng.standard_normal(count))
    item = world.items_near(rng, price)
    rows = events.priced(rows, item, world.item_price[item])
    address = rng.choice(case.addresses, members)[member]
    rows["address"] = np.where(world.is_delivered(item), address, -1)
    rows = events.of_type(rows, "purchase", _times(rng.random(count), case))
    rows = _with_coupons(rng, rows, case)
    return events.at(rng, rows, world.city[world.some_cities(rng, 1)[0]])


def campaign(
    rng: np.random.Generator, case: Case, config: Config, people: People, world: World
) -> np.ndarray:
    """A crowd as large as a ring's, for as good a coupon, but each user on a device of their own.

    Ordinary users among them have their own device, home and address. New ones live together (a
    hall of residence, a firm's post room) or apart; a few couples share a device.
    """
    members = len(case.users)
    old = case.users < people.count
    device, home, address = _newcomers(rng, case, world)
    known = case.users[old]
    device[old] = people.phones(known, (case.start_ms - config.start_ms) // DAY_MS)
    home[old], address[old] = people.home[known], people.head[known]

    member = _members(rng, members)
    count = len(member)
    rows = events.blank(count)
    rows["user"], rows["device"] = case.users[member], device[member]
    rows["channel"] = np.where(rng.random(members) < CAMPAIGN_APP, APP, WEB)[member]
    shops = world.some_shops(rng, rng.integers(1, CAMPAIGN_SHOPS + 1))
    rows["shop"] = rng.choice(shops, count)
    price = rng.uniform(*CAMPAIGN_PRICE) * np.exp(CAMPAIGN_PRICE_SIGMA * rng.standard_normal(count))
    item = world.items_near(rng, price)
    rows = events.priced(rows, item, world.item_price[item])
    rows["address"] = np.where(world.is_delivered(item), address[member], -1)
    soon = rng.random(count) ** rng.uniform(*CAMPAIGN_RUSH)
    rows = events.of_type(rows, "purchase", _times(soon, case))
    rows = events.at(rng, _with_coupons(rng, rows, case), home[member])

    looked = events.of_type(rows.copy(), "view", rows["time_ms"] - LOOK_MS)
    shared = rows[rng.random(count) < CAMPAIGN_SHARE]
    shared = events.of_type(shared, "share", shared["time_ms"] + LOOK_MS)
    shared["friend"] = rng.choice(case.users, len(shared))
    for seen in (looked, shared):
        seen["coupon"] = seen["address"] = seen["quantity"] = -1
        seen["amount"] = np.nan
    return np.concatenate([rows, looked, shared, *_coupons_and_logins(rng, rows)])


def _newcomers(
    rng: np.random.Generator, case: Case, world: World
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(M,) device, (M, 2) home in degrees and (M,) address of each member as if all were new."""
    members = len(case.users)
    couple = rng.random(members) < COUPLES
    couple[0] = False
    device = np.where(couple, np.roll(case.devices, 1), case.devices)
    spot = rng.random()
    apart = np.broadcast_to(world.city[world.some_cities(rng, 1)], (members, 2))
    if spot >= ONE_SPOT + ONE_CITY:
        apart = world.city[world.some_cities(rng, members)]
    if spot >= ONE_SPOT:
        apart = apart + HOME_SPREAD * rng.standard_normal((members, 2))
    # As many to an address as there are: one each, if there is one for each.
    address = case.addresses[np.arange(members) * len(case.addresses) // members]
    return device, apart.copy(), address


def _members(rng: np.random.Generator, count: int) -> np.ndarray:
    """The member of each purchase: one to three each."""
    return np.repeat(np.arange(count), rng.integers(1, MOST_PURCHASES + 1, count))


def _times(part: np.ndarray, case: Case) -> np.ndarray:
    """Of parts of the span (0..1), with a minute at both ends for what comes before a purchase and
    after it."""
    return (case.start_ms + 60_000 + part * (case.span_ms - 120_000)).astype(np.int64)


def _with_coupons(rng: np.random.Generator, rows: np.ndarray, case: Case) -> np.ndarray:
    """Most purchases take one of the case's coupons; changes the rows in place."""
    plain = rng.random(len(rows)) < NO_COUPON
    rows["coupon"] = np.where(plain, -1, rng.choice(case.coupons, len(rows)))
    return events.bought(rows, 1, np.where(plain, 0.0, NEW_CUSTOMER_DISCOUNT))


def _coupons_and_logins(rng: np.random.Generator, bought: np.ndarray) -> list[np.ndarray]:
    """The coupon's use before each purchase that has one, and a login before some."""
    coupons = bought[bought["coupon"] >= 0]
    coupons = events.of_type(coupons, "coupon", coupons["time_ms"] - 3_000)
    logins = bought[rng.random(len(bought)) < CROWD_LOGIN]
    logins = events.of_type(logins, "login", logins["time_ms"] - 40_000)
    logins["shop"] = logins["coupon"] = -1
    for rows in (coupons, logins):
        rows["item"] = rows["address"] = rows["quantity"] = -1
        rows["price"] = rows["amount"] = np.nan
    return [coupons, logins]
