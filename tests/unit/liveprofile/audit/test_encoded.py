"""Every encoded record is decoded, rejected or unaccounted."""

from __future__ import annotations

from liveprofile.audit.encoded import DECODED, PRESENT, REJECTED, EncodedAudit, EncodedCounts
from liveprofile.kafka.topics import PartitionRange

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
