"""Events of planted cases: takeovers, card tests, coupon rings and honest campaign crowds.

The functions return event rows in no particular order, drawn from the random stream of the case.
Array shapes: M members of a crowd, N purchases.
"""

import numpy as np

from intake.simulator.plan import CARD_TEST_MINUTES, TAKEOVER_HOURS, PlantedCase
from intake.simulator.world import (
    APP,
    HOME_SPREAD,
    NEW_CUSTOMER_DISCOUNT,
    WEB,
    People,
    ShopConfig,
    World,
    blank_rows,
    set_amount,
    set_item,
    set_location,
    set_type,
)
from liveprofile.units import DAY_MS, MINUTE_MS

# Takeover prices: factor on the victim's typical price and sigma of its log. Careful thieves use
# CAREFUL_FACTOR. Some thieves act near the victim's home.
FACTOR, CAREFUL_FACTOR, FACTOR_SIGMA = 3.5, 1.2, 0.8
CAREFUL, NEARBY, NEARBY_DEGREES = 0.2, 0.2, 0.2
# Poisson means; the number of purchases is one more.
TAKEOVER_PURCHASES, TAKEOVER_VIEWS = 1.8, 2.0
TAKEOVER_LOGIN = 0.9
# Shares of deliveries to the thief's address and to the victim's (digital goods, parcels caught
# at the door); the rest goes to another user's address.
TO_THIEF, TO_VICTIM = 0.55, 0.2
MINUTES_TO_BUY = 2.0
# Card test: number of purchases (median, sigma of the log, bounds) and duration in minutes.
TESTS, TESTS_SIGMA, TESTS_RANGE = 30.0, 0.5, (10, 120)
TEST_MINUTES = (2.0, 10.0)
ONE_SHOP, ONE_DEVICE, TEST_LOGIN = 0.8, 0.85, 0.7


def takeover_events(
    rng: np.random.Generator, case: PlantedCase, people: People, world: World
) -> np.ndarray:
    """A login, views, and purchases above the victim's usual prices, within 5 to 80 minutes."""
    user = int(case.users[0])
    careful = rng.random() < CAREFUL
    location = world.city_location[world.draw_cities(rng, 1)[0]]
    if rng.random() < NEARBY:
        location = people.home[user] + NEARBY_DEGREES * rng.standard_normal(2)
    purchases, views = 1 + rng.poisson(TAKEOVER_PURCHASES), rng.poisson(TAKEOVER_VIEWS)
    count = purchases + views
    factor = (CAREFUL_FACTOR if careful else FACTOR) * np.exp(
        FACTOR_SIGMA * rng.standard_normal(count)
    )
    item = world.draw_items_near_price(rng, people.typical_price[user] * factor)
    longest_minutes = TAKEOVER_HOURS * 60 - 10
    minutes = MINUTES_TO_BUY + rng.random(count) * rng.uniform(5, longest_minutes)
    time_ms = case.start_ms + (MINUTE_MS * minutes).astype(np.int64)
    common = blank_rows(1)
    common["user"], common["device"] = user, case.devices
    common["channel"] = rng.choice((APP, WEB))
    # Thieves view fewer items than other users: all views come before the purchases.
    viewed = np.repeat(common, count)
    viewed["shop"] = world.draw_shops(rng, count)
    viewed = set_item(viewed, item, world.item_price[item])
    viewed = set_type(viewed, "view", np.sort(time_ms))
    bought = set_type(viewed[views:], "purchase", viewed["time_ms"][views:])
    destination = rng.random(purchases)
    address = np.select(
        [destination < TO_THIEF, destination < TO_THIEF + TO_VICTIM],
        [case.addresses[0], people.household_head[user]],
        rng.integers(0, people.count, purchases),
    )
    bought["address"] = np.where(world.needs_address(bought["item"]), address, -1)
    bought = set_amount(bought, 1, 0.0)
    login = set_type(common, "login", np.array([case.start_ms]))
    rows = np.concatenate([login[: int(rng.random() < TAKEOVER_LOGIN)], viewed[:views], bought])
    return set_location(rng, rows, location)


def card_test_events(
    rng: np.random.Generator, case: PlantedCase, people: People, world: World
) -> np.ndarray:
    """A burst of cheap purchases, mostly on one device and at one shop."""
    size = TESTS * np.exp(TESTS_SIGMA * rng.standard_normal())
    count = int(np.clip(size, *TESTS_RANGE))
    minutes = min(rng.uniform(*TEST_MINUTES), CARD_TEST_MINUTES - 1)
    time_ms = case.start_ms + 20_000 + (MINUTE_MS * minutes * rng.random(count)).astype(np.int64)
    rows = blank_rows(count)
    rows["user"] = rng.choice(case.users, count)
    rows["device"] = rng.choice(case.devices[: 1 if rng.random() < ONE_DEVICE else None], count)
    rows["channel"] = WEB
    rows["shop"] = rng.choice(world.draw_shops(rng, 1 if rng.random() < ONE_SHOP else 3), count)
    item = rng.choice(world.cheap_items, count)
    rows = set_item(rows, item, world.item_price[item])
    rows = set_amount(set_type(rows, "purchase", time_ms), 1, 0.0)
    # Card testers do not care where a delivered item goes: a random user's address.
    address = rng.integers(0, people.count, count)
    rows["address"] = np.where(world.needs_address(item), address, -1)
    users, first_rows = np.unique(rows["user"], return_index=True)
    logs_in = rng.random(len(users)) < TEST_LOGIN
    logins = blank_rows(int(logs_in.sum()))
    for name in ("user", "device", "channel"):
        logins[name] = rows[name][first_rows[logs_in]]
    logins = set_type(logins, "login", np.full(len(logins), case.start_ms))
    rows = np.concatenate([logins, rows])
    return set_location(rng, rows, world.city_location[world.draw_cities(rng, 1)[0]])


MAX_PURCHASES, NO_COUPON, CROWD_LOGIN = 3, 0.15, 0.5
RING_OTHER_DEVICE = 0.1
# Median price, sigma of its log, number of shops.
RING_PRICE, RING_PRICE_SIGMA, RING_SHOPS = 30.0, 0.6, 2
# Bounds of the median price, sigma of the log, largest number of shops.
CAMPAIGN_PRICE, CAMPAIGN_PRICE_SIGMA, CAMPAIGN_SHOPS = (12.0, 60.0), 0.7, 3
# Exponent of a uniform number that places a purchase in the campaign: 1 is even, more is earlier.
CAMPAIGN_RUSH = (1.0, 2.5)
# Share of campaigns whose new users are at one spot (a hall, a firm) or around one city; in the
# others each new user is in a city of their own.
ONE_SPOT, ONE_CITY = 0.5, 0.25
COUPLES, CAMPAIGN_APP, CAMPAIGN_SHARE = 0.05, 0.5, 0.1
VIEW_LEAD_MS = 45_000


def ring_events(rng: np.random.Generator, case: PlantedCase, world: World) -> np.ndarray:
    """Purchases of a coupon ring, coupon events before most and logins before some of them."""
    bought = ring_purchases(rng, case, world)
    other_device = rng.random(len(bought)) < RING_OTHER_DEVICE
    bought["device"] = np.where(
        other_device, rng.choice(case.devices, len(bought)), bought["device"]
    )
    return np.concatenate([bought, *_coupons_and_logins(rng, bought)])


def ring_purchases(rng: np.random.Generator, case: PlantedCase, world: World) -> np.ndarray:
    """One to three purchases per user of the ring, most with one of its coupons.

    Users are spread evenly over devices and addresses. The devices consume no random number:
    the same stream with other devices gives the same purchases.
    """
    members = len(case.users)
    member = _purchasing_members(rng, members)
    count = len(member)
    rows = blank_rows(count)
    rows["user"] = case.users[member]
    rows["device"] = case.devices[member * len(case.devices) // members]
    rows["channel"] = WEB
    rows["shop"] = rng.choice(world.draw_shops(rng, RING_SHOPS), count)
    price = RING_PRICE * np.exp(RING_PRICE_SIGMA * rng.standard_normal(count))
    item = world.draw_items_near_price(rng, price)
    rows = set_item(rows, item, world.item_price[item])
    address = rng.choice(case.addresses, members)[member]
    rows["address"] = np.where(world.needs_address(item), address, -1)
    rows = set_type(rows, "purchase", _purchase_times_ms(rng.random(count), case))
    rows = _set_coupons(rng, rows, case)
    return set_location(rng, rows, world.city_location[world.draw_cities(rng, 1)[0]])


def campaign_events(
    rng: np.random.Generator, case: PlantedCase, config: ShopConfig, people: People, world: World
) -> np.ndarray:
    """A crowd as large as a ring, for as good a coupon, but with one device per user.

    Ordinary users in the crowd keep their own device, home and address. New users share addresses
    (a hall of residence, a firm's post room) or have one each. A few couples share a device.
    """
    members = len(case.users)
    is_ordinary = case.users < people.count
    device, home, address = _draw_newcomers(rng, case, world)
    ordinary = case.users[is_ordinary]
    device[is_ordinary] = people.phone_codes(ordinary, (case.start_ms - config.start_ms) // DAY_MS)
    home[is_ordinary], address[is_ordinary] = people.home[ordinary], people.household_head[ordinary]

    member = _purchasing_members(rng, members)
    count = len(member)
    rows = blank_rows(count)
    rows["user"], rows["device"] = case.users[member], device[member]
    rows["channel"] = np.where(rng.random(members) < CAMPAIGN_APP, APP, WEB)[member]
    shops = world.draw_shops(rng, rng.integers(1, CAMPAIGN_SHOPS + 1))
    rows["shop"] = rng.choice(shops, count)
    price = rng.uniform(*CAMPAIGN_PRICE) * np.exp(CAMPAIGN_PRICE_SIGMA * rng.standard_normal(count))
    item = world.draw_items_near_price(rng, price)
    rows = set_item(rows, item, world.item_price[item])
    rows["address"] = np.where(world.needs_address(item), address[member], -1)
    fraction = rng.random(count) ** rng.uniform(*CAMPAIGN_RUSH)
    rows = set_type(rows, "purchase", _purchase_times_ms(fraction, case))
    rows = set_location(rng, _set_coupons(rng, rows, case), home[member])

    viewed = set_type(rows.copy(), "view", rows["time_ms"] - VIEW_LEAD_MS)
    shared = rows[rng.random(count) < CAMPAIGN_SHARE]
    shared = set_type(shared, "share", shared["time_ms"] + VIEW_LEAD_MS)
    shared["friend"] = rng.choice(case.users, len(shared))
    for events in (viewed, shared):
        events["coupon"] = events["address"] = events["quantity"] = -1
        events["amount"] = np.nan
    return np.concatenate([rows, viewed, shared, *_coupons_and_logins(rng, rows)])


def _draw_newcomers(
    rng: np.random.Generator, case: PlantedCase, world: World
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(M,) device, (M, 2) home in degrees and (M,) address of each member, as if all were new."""
    members = len(case.users)
    shares_device = rng.random(members) < COUPLES
    shares_device[0] = False
    device = np.where(shares_device, np.roll(case.devices, 1), case.devices)
    placement = rng.random()
    home = np.broadcast_to(world.city_location[world.draw_cities(rng, 1)], (members, 2))
    if placement >= ONE_SPOT + ONE_CITY:
        home = world.city_location[world.draw_cities(rng, members)]
    if placement >= ONE_SPOT:
        home = home + HOME_SPREAD * rng.standard_normal((members, 2))
    # Members are spread evenly over the addresses of the case.
    address = case.addresses[np.arange(members) * len(case.addresses) // members]
    return device, home.copy(), address


def _purchasing_members(rng: np.random.Generator, members: int) -> np.ndarray:
    """(N,) index of the member who makes each purchase: one to three purchases per member."""
    return np.repeat(np.arange(members), rng.integers(1, MAX_PURCHASES + 1, members))


def _purchase_times_ms(fraction: np.ndarray, case: PlantedCase) -> np.ndarray:
    """(N,) times at these fractions (0..1) of the case.

    A minute stays free at both ends for the events before and after a purchase.
    """
    span_ms = case.duration_ms - 2 * MINUTE_MS
    return (case.start_ms + MINUTE_MS + fraction * span_ms).astype(np.int64)


def _set_coupons(rng: np.random.Generator, rows: np.ndarray, case: PlantedCase) -> np.ndarray:
    """Sets coupon and amount of the purchases in place; most use one of the case's coupons."""
    no_coupon = rng.random(len(rows)) < NO_COUPON
    rows["coupon"] = np.where(no_coupon, -1, rng.choice(case.coupons, len(rows)))
    return set_amount(rows, 1, np.where(no_coupon, 0.0, NEW_CUSTOMER_DISCOUNT))


def _coupons_and_logins(rng: np.random.Generator, bought: np.ndarray) -> list[np.ndarray]:
    """A coupon event before each purchase with a coupon, and a login before some purchases."""
    coupons = bought[bought["coupon"] >= 0]
    coupons = set_type(coupons, "coupon", coupons["time_ms"] - 3_000)
    logins = bought[rng.random(len(bought)) < CROWD_LOGIN]
    logins = set_type(logins, "login", logins["time_ms"] - 40_000)
    logins["shop"] = logins["coupon"] = -1
    for rows in (coupons, logins):
        rows["item"] = rows["address"] = rows["quantity"] = -1
        rows["price"] = rows["amount"] = np.nan
    return [coupons, logins]
