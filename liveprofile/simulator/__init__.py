"""A seeded shop: users with habits, planted fraud, honest changes and crowds, and labels.

    for day in Shop(Config(users=1_000, days=30, seed=7)):
        day.events, day.labels  # Arrow tables; day.records() and day.lines() for JSON

What is drawn, from which distribution and why: docs/generator.md.
"""

from liveprofile.simulator.config import Config
from liveprofile.simulator.scenarios import ring, spread
from liveprofile.simulator.shop import Shop
from liveprofile.simulator.tables import Day

__all__ = ["Config", "Day", "Shop", "ring", "spread"]
