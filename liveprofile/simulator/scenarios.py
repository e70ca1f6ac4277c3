"""Two ready scenarios: a ring on few devices, and its purchases once more on a device each."""

from __future__ import annotations

from datetime import date

import numpy as np

from liveprofile.simulator.config import START, Config
from liveprofile.simulator.crowds import ring_purchases
from liveprofile.simulator.plan import Case, Kind, Sizes
from liveprofile.simulator.streams import Stream, generator
from liveprofile.simulator.tables import Day, Names, day_of
from liveprofile.simulator.world import World


def ring(
    users: int = 50,
    devices: int = 3,
    *,
    seed: int = 0,
    addresses: int = 4,
    coupons: int = 3,
    hours: float = 48.0,
    start: date = START,
) -> Day:
    """The purchases of a ring whose users share devices, addresses and coupons; all are fraud.

    Raises InputError if there are more devices than users, or none.
    """
    config = Config(users, 1, start, seed, ring_users=users, ring_devices=devices)
    case = _case(config, devices, addresses, coupons, hours)
    return _purchases(config, case, labelled=True)


def spread(
    users: int = 50,
    *,
    seed: int = 0,
    addresses: int = 4,
    coupons: int = 3,
    hours: float = 48.0,
    start: date = START,
) -> Day:
    """The purchases of `ring`, field by field, but each user on a device of their own; no label.

    Raises InputError if there are no users.
    """
    config = Config(users, 1, start, seed)
    return _purchases(config, _case(config, users, addresses, coupons, hours), labelled=False)


def _case(config: Config, devices: int, addresses: int, coupons: int, hours: float) -> Case:
    span_ms, delay_ms = int(hours * 3_600_000), 0
    codes = map(np.arange, (config.users, devices, addresses, coupons))
    return Case(0, Kind.COUPON_RING, config.start_ms, span_ms, delay_ms, *codes)


def _purchases(config: Config, case: Case, labelled: bool) -> Day:
    world = World(config.seed)
    rows = ring_purchases(generator(config.seed, Stream.SCENARIO), case, world)
    if labelled:
        rows["case"] = case.number
    rows = rows[np.argsort(rows["time_ms"], kind="stable")]
    # Names for a device a user in both scenarios.
    users = len(case.users)
    sizes = Sizes(users, users, len(case.addresses), len(case.coupons))
    return day_of(rows, 0, config.seed, Names(config.seed, sizes, world), [case])
