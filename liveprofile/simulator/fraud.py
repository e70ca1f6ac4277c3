"""Account takeovers and card tests, drawn from the random stream of their case.

The functions return event rows in no particular order.
"""

from __future__ import annotations

import numpy as np

from liveprofile.simulator.event_rows import (
    APP,
    WEB,
    blank_rows,
    set_amount,
    set_item,
    set_location,
    set_type,
)
from liveprofile.simulator.people import People
from liveprofile.simulator.plan import CARD_TEST_MINUTES, TAKEOVER_HOURS, PlantedCase
from liveprofile.simulator.world import World
from liveprofile.units import MINUTE_MS

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
