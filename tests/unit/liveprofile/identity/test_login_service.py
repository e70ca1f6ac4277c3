"""The same logins give the same merges, however they are read, cut, killed and replayed."""

from __future__ import annotations

import json
import logging
import random
import threading
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.config import load
from liveprofile.identity import login_service
from liveprofile.identity.book import Merge
from liveprofile.identity.login_counts import read_counts
from liveprofile.identity.records import read_record, to_record
from liveprofile.kafka.offsets import Progress
from liveprofile.kafka.records import Record
from liveprofile.wire.user_records import key_of
from tests.support.memory.login_topics import (
    MemoryKafka,
    ProcessKilledError,
    opened,
    run_to_end,
)

SETTINGS = load(merges={"enabled": True}, logins={"anonymous_id_pattern": "anon-.+"})
NOW_MS = 1_800_000_000_000
SINCE_MS = NOW_MS + SETTINGS.merges.delay_ms
PARTITIONS = 3

# Which anonymous id logs in to which account, and how long after the one before.
steps = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 5), st.sampled_from([0, 0, 1, 50])), max_size=40
)


def partition_of(user: int) -> int:
    return user % PARTITIONS


def records_of(logins: Sequence[tuple[int, int, int]]) -> list[Record]:
    """In the order of arrival: what arrives in one millisecond, by partition."""
    time_ms, arrivals = NOW_MS - 1_000_000, []
    for anonymous, user, gap_ms in logins:
        time_ms += gap_ms
        arrivals.append((time_ms, partition_of(user), anonymous, user))
    offsets: Counter[int] = Counter()
    records = []
    for number, (at_ms, partition, anonymous, user) in enumerate(
        sorted(arrivals, key=lambda each: each[:2])
    ):
        value = event(f"e{number}", f"user-{user}", anonymous_id=f"anon-{anonymous}")
        records.append(record(partition, offsets[partition], value, at_ms))
        offsets[partition] += 1
    return records


def event(event_id: str, user_id: str, **fields: Any) -> bytes:
    required = {"event_id": event_id, "user_id": user_id, "event_type": "view"}
    # A client may send any time: it does not decide which login is first.
    return json.dumps(required | {"event_time": NOW_MS - zlib.crc32(event_id.encode()) % 10**9} | fields).encode()


def record(partition: int, offset: int, value: bytes, at_ms: int = NOW_MS) -> Record:
    return Record("behavior-events", partition, offset, at_ms, None, value, {})


def first_logins(records: Sequence[Record]) -> dict[str, str]:
    """The reference: by anonymous id, the account of the login that arrived first."""
    first: dict[str, str] = {}
    for each in records:
        fields = json.loads(each.value or b"")
        first.setdefault(fields["anonymous_id"], fields["user_id"])
    return first


def assert_merged_once(kafka: MemoryKafka) -> None:
    written = [read_record(*each) for each in kafka.merges]
    assert [len(merges) for _, merges in written] == [1] * len(written)
    found = {alias: merges[0] for alias, merges in written}
    assert len(found) == len(written)
    assert found == {
        alias: Merge(user, SINCE_MS) for alias, user in first_logins(kafka.records).items()
    }


@given(steps, st.integers(0, 2**32), st.lists(st.integers(0, 4), max_size=4))
def test_order_cuts_kills_and_replays_do_not_change_the_merges(
    logins: list[tuple[int, int, int]], seed: int, kills: list[int]
) -> None:
    kafka = MemoryKafka(records_of(logins), PARTITIONS, random.Random(seed))
    for commits in kills:
        kafka.commits_left = commits
        try:
            run_to_end(kafka, opened(kafka, SETTINGS, NOW_MS))
        except ProcessKilledError:
            pass
    kafka.commits_left = None
    run_to_end(kafka, opened(kafka, SETTINGS, NOW_MS))
    assert_merged_once(kafka)
    counts = sum(read_counts(kafka.progress).values(), Counter())
    assert counts["merged"] == len(first_logins(kafka.records))

    kafka.progress = {}
    run_to_end(kafka, opened(kafka, SETTINGS, NOW_MS))
    assert_merged_once(kafka)
