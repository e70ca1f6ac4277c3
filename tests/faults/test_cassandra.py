"""The only Cassandra node is away, and it is slow.

Load: steady. Faults: kill -9 and a new start after 30 s; half a second of silence in every second.
Holds: no write is lost or taken for a success before it is one, every profile is the reference's.
Recovers: by itself. Slowness costs no restart.
"""

import time

import pytest

from stack.local import Stack
from tests.faults.loaded_job import LoadedJob

pytestmark = pytest.mark.faults

AWAY_S = 30
SLOW_S, TURN_S = 10, 0.5


def test_a_node_that_is_away(shop: LoadedJob, stack: Stack) -> None:
    with shop.open(), shop.recovery("Cassandra away for 30 s"):
        stack.cassandra.kill()
        time.sleep(AWAY_S)
        stack.cassandra.start()
    shop.check()


def test_a_node_that_is_slow(shop: LoadedJob, stack: Stack) -> None:
    restarts = shop.job.restarts()
    with shop.open(), shop.recovery("Cassandra slow for 10 s"):
        try:
            for _ in range(round(SLOW_S / TURN_S / 2)):
                stack.cassandra.pause()
                time.sleep(TURN_S)
                stack.cassandra.resume()
                time.sleep(TURN_S)
        finally:
            stack.cassandra.resume()
    shop.check()
    assert shop.job.restarts() == restarts
