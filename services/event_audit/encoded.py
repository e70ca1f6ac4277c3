"""What became of the records of the topic of encoded events: a pure part of
`liveprofile events audit`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from liveprofile.kafka.topics import PartitionRange

PRESENT, DECODED, REJECTED = 1, 2, 4
MAX_EXAMPLES = 10

Position = tuple[int, int]  # partition and offset in the topic of encoded events


@dataclass(frozen=True)
class EncodedCounts:
    """Records up to the decoder's committed offsets; `behind` are those after them."""

    in_topic: int = 0
    decoded: int = 0
    rejected: int = 0
    unaccounted: int = 0
    behind: int = 0
    examples: tuple[Position, ...] = ()  # of unaccounted records

    @property
    def ok(self) -> bool:
        return not self.unaccounted


class EncodedAudit:
    """Marks the outcomes of records; a byte of memory for each offset."""

    def __init__(self, ranges: Mapping[int, PartitionRange]):
        """ranges: the audited offsets by partition."""
        self._first = {number: span.first for number, span in ranges.items()}
        self._marks = {
            number: np.zeros(span.end - span.first, np.uint8) for number, span in ranges.items()
        }

    def mark(self, positions: Iterable[Position], outcome: int) -> None:
        """outcome: PRESENT, DECODED or REJECTED. Positions outside of the ranges are ignored."""
        for partition, offset in positions:
            marks = self._marks.get(partition)
            if marks is not None and 0 <= (at := offset - self._first[partition]) < len(marks):
                marks[at] |= outcome

    def counts(self, behind: int) -> EncodedCounts:
        """A record that was rejected, and decoded at another attempt, counts as decoded."""
        counts = np.zeros(8, np.int64)
        examples: list[Position] = []
        for number, marks in sorted(self._marks.items()):
            counts += np.bincount(marks, minlength=8)
            lost = np.flatnonzero(marks == PRESENT)[: MAX_EXAMPLES - len(examples)]
            examples += [(number, self._first[number] + int(at)) for at in lost]
        rejected = int(counts[PRESENT | REJECTED])
        decoded = int(counts[PRESENT | DECODED] + counts[PRESENT | DECODED | REJECTED])
        unaccounted = int(counts[PRESENT])
        total = decoded + rejected + unaccounted
        return EncodedCounts(total, decoded, rejected, unaccounted, behind, tuple(examples))
