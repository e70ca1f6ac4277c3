"""The job is stopped with a savepoint and goes on from it at another parallelism.

Load: steady before and after; while the job is away, late events come, so that they lie right
behind the offsets it goes on from.
Holds: no event is lost or used twice, every profile is the reference's; what the windows drop of
the late events is found by the audit (see Shop.check).
"""

import itertools
from contextlib import ExitStack
from pathlib import Path

import pytest

from stack import flink
from tests.faults.shop import LATE_BY_MS, STEP_MS, USERS, Shop
from tests.shop import as_message, visits
from tests.streams_seeded import Message

pytestmark = pytest.mark.faults

LATE = 40


def late_events(shop: Shop) -> list[Message]:
    stream = visits(99, USERS, STEP_MS, shop.clock_ms - LATE_BY_MS)
    return [
        as_message(event | {"event_id": f"late-behind-{event['event_id']}"})
        for event in itertools.islice(stream, LATE)
    ]


def test_another_parallelism_and_late_events_behind_the_restored_offset(
    shop: Shop, tmp_path: Path
) -> None:
    job = shop.job
    with shop.open():
        pass  # windows are open when the job stops
    # The load goes on when the job does, and past its recovery.
    with ExitStack() as load, shop.recovery("stopped with a savepoint, resumed at parallelism 3"):
        savepoint = flink.stop_with_savepoint(job.rest_url, job.id, tmp_path.as_uri())
        job.send(late_events(shop))
        job.submit("--savepoint", savepoint, "--parallelism", "3")
        load.enter_context(shop.open())
    shop.check()
