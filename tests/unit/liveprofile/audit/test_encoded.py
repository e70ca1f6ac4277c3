"""Every encoded record is decoded, rejected or unaccounted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from liveprofile.audit.archive_overlap import offsets_after_archive, read_archived_events
from liveprofile.audit.encoded import DECODED, PRESENT, REJECTED, EncodedAudit, EncodedCounts
from liveprofile.audit.state_file import AuditState, read_state, write_state
from liveprofile.errors import InputError
from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import WindowSettings
from tests.unit.liveprofile.audit.topics import InputRecord

RANGES = {0: PartitionRange(0, 4), 1: PartitionRange(10, 13)}


def audited(decoded: list[tuple[int, int]], rejected: list[tuple[int, int]]) -> EncodedCounts:
    audit = EncodedAudit(RANGES)
    # Offset 12 of partition 1 is the marker of a transaction.
    audit.mark([(0, 0), (0, 1), (0, 2), (0, 3), (1, 10), (1, 11)], PRESENT)
    audit.mark(decoded, DECODED)
    audit.mark(rejected, REJECTED)
    return audit.counts(behind=5)


def test_records_with_one_outcome_each_are_accounted_for() -> None:
    counts = audited([(0, 0), (0, 1), (0, 3), (1, 10)], [(0, 2), (1, 11)])
    assert counts == EncodedCounts(6, 4, 2, 0, 5) and counts.ok


def test_record_without_an_outcome_is_unaccounted_and_named() -> None:
    counts = audited([(0, 0), (0, 3), (1, 10)], [(0, 2)])
    assert counts == EncodedCounts(6, 3, 1, 2, 5, ((0, 1), (1, 11))) and not counts.ok


def test_copies_of_outcomes_count_once_and_decoded_wins() -> None:
    counts = audited([(0, 0), (0, 0), (0, 1), (0, 3), (1, 10)], [(0, 1), (0, 2), (1, 11), (1, 11)])
    assert (counts.decoded, counts.rejected, counts.unaccounted) == (4, 2, 0)


def test_outcomes_outside_of_the_range_are_ignored() -> None:
    assert audited([(0, 99), (1, 9), (1, 13), (7, 0), (1, 12)], []).decoded == 0


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


STATE = AuditState(topic="events", offsets={0: 7, 12: 0})


def test_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    assert read_state(file, "events") is None
    write_state(file, STATE.model_copy(update={"offsets": {}}))
    write_state(file, STATE)
    assert read_state(file, "events") == STATE
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"topic": "events"}', '{"topic": "events", "offsets": {"0": -1}}']
)
def test_damaged_state_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "audit.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"audit\.json"):
        read_state(file, "events")


def test_state_of_another_topic_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    write_state(file, STATE)
    with pytest.raises(InputError, match="of topic events, not others"):
        read_state(file, "others")


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing/audit\.json: No such file"):
        write_state(tmp_path / "missing" / "audit.json", STATE)
