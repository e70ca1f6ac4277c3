"""Where the input topic goes on from an archive."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from liveprofile.audit.archive_overlap import offsets_after_archive, read_archived_events
from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import WindowSettings
from tests.unit.liveprofile.audit.simulated_job import InputRecord

FIRST_OFFSET = 10


def records(*partitions: Sequence[str]) -> Iterator[InputRecord]:
    """A topic with events of the given ids; "" is a record that is not an event."""
    for partition, event_ids in enumerate(partitions):
        for index, event_id in enumerate(event_ids):
            yield InputRecord(partition, FIRST_OFFSET + index, 0, payload(event_id))


def payload(event_id: str) -> bytes:
    event = {"event_id": event_id, "user_id": "u", "event_type": "view", "event_time": 1}
    return json.dumps(event).encode() if event_id else b"not JSON"


def offsets(live: Sequence[Sequence[str]], *archive: Sequence[str]) -> dict[int, int]:
    """The offsets relative to the first one of the partition."""
    ranges = {
        partition: PartitionRange(FIRST_OFFSET, FIRST_OFFSET + len(event_ids))
        for partition, event_ids in enumerate(live)
    }
    archived = read_archived_events(records(*archive), WindowSettings())
    found = offsets_after_archive(records(*live), archived, ranges, WindowSettings())
    return {partition: offset - FIRST_OFFSET for partition, offset in found.items()}


def test_partition_goes_on_after_its_last_event_in_the_archive() -> None:
    live = ["b", "c", "d", "e"], ["x", "y"], ["z"]
    assert offsets(live, ["a", "b", "c"], ["x", "y"], ["w"]) == {0: 2, 1: 2, 2: 0}


def test_no_event_is_skipped_that_the_archive_lacks() -> None:
    assert offsets([["a", "missing", "b", "c"]], ["a", "b"]) == {0: 1}


def test_copy_of_an_archived_event_moves_nothing() -> None:
    assert offsets([["a", "b", "c", "a", "d"]], ["a", "b"]) == {0: 2}


def test_records_that_are_not_events_are_read_unless_archived_events_follow() -> None:
    assert offsets([["", "a", "", "b", "", "c"]], ["a", "b"]) == {0: 4}
    assert offsets([["", "c"]], ["a", ""]) == {0: 0}


def test_empty_topic_is_read_from_its_first_offset() -> None:
    assert offsets([[], ["a"]], ["a"]) == {0: 0, 1: 1}
    assert offsets([["a"]], []) == {0: 0}
