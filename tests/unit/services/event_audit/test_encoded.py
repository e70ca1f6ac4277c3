"""Every encoded record is decoded, rejected or unaccounted."""

import json
from collections.abc import Iterator, Sequence

import pytest

from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import WindowSettings
from services.event_audit.archive_overlap import offsets_after_archive, read_archived_events
from services.event_audit.encoded import DECODED, PRESENT, REJECTED, EncodedAudit, EncodedCounts
from tests.unit.services.event_audit.topics import InputRecord

RANGES = {0: PartitionRange(0, 4), 1: PartitionRange(10, 13)}


def audited(decoded: list[tuple[int, int]], rejected: list[tuple[int, int]]) -> EncodedCounts:
    audit = EncodedAudit(RANGES)
    # Offset 12 of partition 1 is the marker of a transaction.
    audit.mark([(0, 0), (0, 1), (0, 2), (0, 3), (1, 10), (1, 11)], PRESENT)
    audit.mark(decoded, DECODED)
    audit.mark(rejected, REJECTED)
    return audit.counts(behind=5)


def test_records_with_one_outcome_each_are_accounted_for() -> None:
    # A record may have copies of its outcome; decoded wins. Others are outside of the range.
    decoded = [(0, 0), (0, 0), (0, 1), (0, 3), (1, 10), (0, 99), (1, 9), (1, 12), (7, 0)]
    counts = audited(decoded, [(0, 1), (0, 2), (1, 11), (1, 11)])
    assert counts == EncodedCounts(6, 4, 2, 0, 5) and counts.ok
    counts = audited([(0, 0), (0, 3), (1, 10)], [(0, 2)])
    assert counts == EncodedCounts(6, 3, 1, 2, 5, ((0, 1), (1, 11))) and not counts.ok


FIRST_OFFSET = 10


def records(*partitions: Sequence[str]) -> Iterator[InputRecord]:
    """A topic with events of the given ids; "-" is a record that is not an event."""
    for partition, event_ids in enumerate(partitions):
        for index, event_id in enumerate(event_ids):
            yield InputRecord(partition, FIRST_OFFSET + index, 0, payload(event_id))


def payload(event_id: str) -> bytes:
    event = {"event_id": event_id, "user_id": "u", "event_type": "view", "event_time": 1}
    return json.dumps(event).encode() if event_id != "-" else b"not JSON"


def offsets(live: Sequence[Sequence[str]], *archive: Sequence[str]) -> dict[int, int]:
    """The offsets relative to the first one of the partition."""
    ranges = {
        partition: PartitionRange(FIRST_OFFSET, FIRST_OFFSET + len(event_ids))
        for partition, event_ids in enumerate(live)
    }
    archived = read_archived_events(records(*archive), WindowSettings())
    found = offsets_after_archive(records(*live), archived, ranges, WindowSettings())
    return {partition: offset - FIRST_OFFSET for partition, offset in found.items()}


@pytest.mark.parametrize(
    ("live", "archive", "expected"),
    [
        (["bcde", "xy", "z"], ["abc", "xy", "w"], {0: 2, 1: 2, 2: 0}),
        (["a?bc"], ["ab"], {0: 1}),  # the archive lacks an event
        (["abcad"], ["ab"], {0: 2}),  # a copy of an archived event moves nothing
        (["-a-b-c"], ["ab"], {0: 4}),  # "-" is no event
        (["-c"], ["a-"], {0: 0}),
        (["", "a"], ["a"], {0: 0, 1: 1}),
        (["a"], [], {0: 0}),
    ],
)
def test_partition_goes_on_after_its_last_event_in_the_archive(live, archive, expected) -> None:
    assert offsets(live, *archive) == expected
