"""Which hours of users the scoring sink writes, and where their rows are stored."""

from __future__ import annotations

from cassandra.query import SimpleStatement

from liveprofile.units import HOUR_MS
from tests.support.rows.scored_events import START_MS
from udfs.cassandra.encoding import bigint, partition_key
from udfs.scoring.sink import HOUR_REFRESH_S, WrittenHours


def test_hour_is_written_once_until_it_must_be_refreshed() -> None:
    now_s = [5.0]  # a clock that starts when the machine does
    hours = WrittenHours(lambda: now_s[0])
    assert hours.add("u", 0)
    assert not hours.add("u", 0)
    assert hours.add("u", HOUR_MS) and hours.add("v", 0)
    now_s[0] += HOUR_REFRESH_S - 1
    assert not hours.add("u", 0)
    now_s[0] += 1
    assert hours.add("u", 0)
    assert not hours.add("u", 0)


def test_partition_key_is_that_of_the_driver() -> None:
    parts = ["größe".encode(), bigint(START_MS)]
    statement = SimpleStatement("")
    statement.routing_key = parts
    assert partition_key(*parts) == statement.routing_key
