"""Two ready scenarios: a ring on few devices, and the same purchases on one device per user."""

from __future__ import annotations

from datetime import date

import numpy as np

from liveprofile.simulator.config import START, RandomStream, ShopConfig, random_generator
from liveprofile.simulator.crowds import ring_purchases
from liveprofile.simulator.plan import CaseKind, IdCounts, PlantedCase
from liveprofile.simulator.tables import IdMapper, ShopDay, build_day
from liveprofile.simulator.world import World
from liveprofile.units import HOUR_MS


def shared_device_ring(
    users: int = 50,
    devices: int = 3,
    *,
    seed: int = 0,
    addresses: int = 4,
    coupons: int = 3,
    hours: float = 48.0,
    start: date = START,
) -> ShopDay:
    """Purchases of a ring whose users share devices, addresses and coupons, labelled as fraud.

    Raises InputError if there are more devices than users, or none.
    """
    config = ShopConfig(users, 1, start, seed, ring_users=users, ring_devices=devices)
    case = _ring_case(config, devices, addresses, coupons, hours)
    return _draw_purchases(config, case, labelled=True)


def separate_device_purchases(
    users: int = 50,
    *,
    seed: int = 0,
    addresses: int = 4,
    coupons: int = 3,
    hours: float = 48.0,
    start: date = START,
) -> ShopDay:
    """The purchases of `shared_device_ring` with one device per user and without labels.

    All other fields are equal. Raises InputError if there are no users.
    """
    config = ShopConfig(users, 1, start, seed)
    case = _ring_case(config, users, addresses, coupons, hours)
    return _draw_purchases(config, case, labelled=False)


def _ring_case(
    config: ShopConfig, devices: int, addresses: int, coupons: int, hours: float
) -> PlantedCase:
    duration_ms, label_delay_ms = int(hours * HOUR_MS), 0
    codes = map(np.arange, (config.users, devices, addresses, coupons))
    return PlantedCase(
        0, CaseKind.COUPON_RING, config.start_ms, duration_ms, label_delay_ms, *codes
    )


def _draw_purchases(config: ShopConfig, case: PlantedCase, labelled: bool) -> ShopDay:
    world = World(config.seed)
    rows = ring_purchases(random_generator(config.seed, RandomStream.SCENARIO), case, world)
    if labelled:
        rows["case"] = case.number
    rows = rows[np.argsort(rows["time_ms"], kind="stable")]
    # Both scenarios reserve one device per user, so that their ids agree.
    users = len(case.users)
    counts = IdCounts(users, users, len(case.addresses), len(case.coupons))
    return build_day(rows, 0, config.seed, IdMapper(config.seed, counts, world), [case])
