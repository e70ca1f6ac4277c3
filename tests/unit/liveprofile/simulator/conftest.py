from __future__ import annotations

import pyarrow as pa
import pytest

from liveprofile.simulator import Shop, ShopConfig
from tests.unit.liveprofile.simulator.small_shop import SMALL


@pytest.fixture(scope="session")
def days():
    """The days of the small shop with seed 7."""
    return list(Shop(ShopConfig(**SMALL, seed=7)))


@pytest.fixture(scope="session")
def events(days):
    return pa.concat_tables(day.events for day in days)


@pytest.fixture(scope="session")
def labels(days):
    return pa.concat_tables(day.labels for day in days)
