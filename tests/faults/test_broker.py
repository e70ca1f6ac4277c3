"""The only Kafka broker is away.

Load: steady; the producer keeps what it can't send. Fault: kill -9, a new start after 20 s. The
Kafka sink fails with it: rejected, late and alert records wait for the broker too.
Holds: no event is lost or used twice, every profile is the reference's, every alert was sent.
Recovers: by itself once the broker is back.
"""

import time

import pytest

from stack.local import Stack
from tests.faults.loaded_job import LoadedJob

pytestmark = pytest.mark.faults

AWAY_S = 20


def test_a_broker_that_is_away(shop: LoadedJob, stack: Stack) -> None:
    with shop.open(), shop.recovery("broker away for 20 s"):
        stack.kafka.kill()
        time.sleep(AWAY_S)
        stack.kafka.start()
    shop.check()
