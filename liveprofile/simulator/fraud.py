"""Takeovers and card tests, drawn from the case's own stream: events in no order."""

from __future__ import annotations

import numpy as np

from liveprofile.simulator import rows as events
from liveprofile.simulator.people import People
from liveprofile.simulator.plan import CARD_TEST_MINUTES, TAKEOVER_HOURS, Case
from liveprofile.simulator.rows import APP, WEB
from liveprofile.simulator.world import World

# Takeover: some thieves are careful: usual amounts (factor, sigma of the log), a place nearby.
FACTOR, QUIET_FACTOR, FACTOR_SIGMA = 3.5, 1.2, 0.8
QUIET, NEARBY, NEARBY_DEGREES = 0.2, 0.2, 0.2
TAKEOVER_PURCHASES, TAKEOVER_VIEWS = 1.8, 2.0  # Poisson means; one purchase more
TAKEOVER_LOGIN = 0.9
# To the thief's address, to the user's own (digital goods, caught at the door), else to another's.
TO_THIEF, TO_OWN = 0.55, 0.2
MINUTES_TO_BUY = 2.0
# Card test: how many purchases (median, sigma of the log, bounds), in how many minutes.
TESTS, TESTS_SIGMA, TESTS_RANGE = 30.0, 0.5, (10, 120)
TEST_MINUTES = (2.0, 10.0)
ONE_SHOP, ONE_DEVICE, TEST_LOGIN = 0.8, 0.85, 0.7


def takeover(rng: np.random.Generator, case: Case, people: People, world: World) -> np.ndarray:
    """A login, views, and purchases larger than the user's, within minutes to an hour or so."""
    user = int(case.users[0])
    quiet = rng.random() < QUIET
    place = world.city[world.some_cities(rng, 1)[0]]
    if rng.random() < NEARBY:
        place = people.home[user] + NEARBY_DEGREES * rng.standard_normal(2)
    purchases, views = 1 + rng.poisson(TAKEOVER_PURCHASES), rng.poisson(TAKEOVER_VIEWS)
    count = purchases + views
    factor = (QUIET_FACTOR if quiet else FACTOR) * np.exp(FACTOR_SIGMA * rng.standard_normal(count))
    item = world.items_near(rng, people.typical_price[user] * factor)
    longest = TAKEOVER_HOURS * 60 - 10
    minutes = MINUTES_TO_BUY + rng.random(count) * rng.uniform(5, longest)
    time_ms = case.start_ms + (60_000 * minutes).astype(np.int64)
    shared = events.blank(1)
    shared["user"], shared["device"] = user, case.devices
    shared["channel"] = rng.choice((APP, WEB))
    # Thieves look less than others do: the views go before the purchases.
    looked = np.repeat(shared, count)
    looked["shop"] = world.some_shops(rng, count)
    looked = events.priced(looked, item, world.item_price[item])
    looked = events.of_type(looked, "view", np.sort(time_ms))
    bought = events.of_type(looked[views:], "purchase", looked["time_ms"][views:])
    to = rng.random(purchases)
    address = np.select(
        [to < TO_THIEF, to < TO_THIEF + TO_OWN],
        [case.addresses[0], people.head[user]],
        rng.integers(0, people.count, purchases),
    )
    bought["address"] = np.where(world.is_delivered(bought["item"]), address, -1)
    bought = events.bought(bought, 1, 0.0)
    login = events.of_type(shared, "login", np.array([case.start_ms]))
    rows = np.concatenate([login[: int(rng.random() < TAKEOVER_LOGIN)], looked[:views], bought])
    return events.at(rng, rows, place)


def card_test(rng: np.random.Generator, case: Case, people: People, world: World) -> np.ndarray:
    """A burst of cheap purchases, mostly on one device at one shop."""
    size = TESTS * np.exp(TESTS_SIGMA * rng.standard_normal())
    count = int(np.clip(size, *TESTS_RANGE))
    minutes = min(rng.uniform(*TEST_MINUTES), CARD_TEST_MINUTES - 1)
    time_ms = case.start_ms + 20_000 + (60_000 * minutes * rng.random(count)).astype(np.int64)
    rows = events.blank(count)
    rows["user"] = rng.choice(case.users, count)
    rows["device"] = rng.choice(case.devices[: 1 if rng.random() < ONE_DEVICE else None], count)
    rows["channel"] = WEB
    rows["shop"] = rng.choice(world.some_shops(rng, 1 if rng.random() < ONE_SHOP else 3), count)
    item = rng.choice(world.cheap_items, count)
    rows = events.priced(rows, item, world.item_price[item])
    rows = events.bought(events.of_type(rows, "purchase", time_ms), 1, 0.0)
    # Any address will do where one is asked for.
    somewhere = rng.integers(0, people.count, count)
    rows["address"] = np.where(world.is_delivered(item), somewhere, -1)
    users, firsts = np.unique(rows["user"], return_index=True)
    known = rng.random(len(users)) < TEST_LOGIN
    logins = events.blank(int(known.sum()))
    for name in ("user", "device", "channel"):
        logins[name] = rows[name][firsts[known]]
    logins = events.of_type(logins, "login", np.full(len(logins), case.start_ms))
    rows = np.concatenate([logins, rows])
    return events.at(rng, rows, world.city[world.some_cities(rng, 1)[0]])
