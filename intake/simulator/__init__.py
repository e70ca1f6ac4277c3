"""Simulator of a shop: users with habits, planted fraud, honest changes, crowds, and labels.

    for day in Shop(ShopConfig(users=1_000, days=30, seed=7)):
        day.events, day.labels  # Arrow tables; day.records() and day.lines() for JSON

The same configuration and seed give the same bytes. docs/simulator.md lists the distributions
and the reasons for them.
"""

from intake.simulator.shop import Shop, ShopDay, shared_device_ring
from intake.simulator.world import ShopConfig

__all__ = ["Shop", "ShopConfig", "ShopDay", "shared_device_ring"]
