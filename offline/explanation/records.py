"""Which records of the input topic are read to find a user's events up to a window.

A record of an event is not older than the event by more than limits.max_clock_skew_ms, or the event
was rejected. So what is before the user's first window is not read. There is no such bound at the
other end: replayed events have records of today. So the records are read in stages, the likeliest
first, until all events are found that the job has used. The job's views then prove that they are
the right ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from liveprofile.kafka.partitioner import partition_of
from liveprofile.kafka.records import Record
from liveprofile.kafka.topics import PartitionRange
from liveprofile.storage.queries import WindowDigests
from liveprofile.wire.payload import as_id, digest, load, split_digests
from offline.late_windows.late_events import Position, RecordSelection, SpooledRecord

WHOLE_NUMBER = re.compile(r"-?[0-9]+")
Ranges = dict[int, PartitionRange]


class KnownEvents(NamedTuple):
    """What is stored of a user's events up to a window."""

    digests: frozenset[bytes]  # of the windows that have not expired
    events: int  # of all windows
    first_ms: int | None  # start of the first window; None: a window has expired

    def are_in(self, found: Collection[bytes]) -> bool:
        """Whether these digests may be all events: of others there are too few."""
        return len(found) >= self.events and self.digests.issubset(found)


def known_events(stored: Sequence[WindowDigests], windows: int, events: int) -> KnownEvents:
    """stored: the windows up to one, newest first. windows, events: numbers of all of them."""
    digests = frozenset[bytes]().union(*(split_digests(each.digests) for each in stored))
    is_whole = len(stored) == windows and sum(each.events for each in stored) == events
    first_ms = min(each.window_start_ms for each in stored) if stored and is_whole else None
    return KnownEvents(digests, events, first_ms)


def record_test(user_id: str) -> Callable[[bytes | None], bool]:
    """Returns whether a payload can be an event of the user, without parsing it.

    A JSON text has an id as it is, or with escapes, or as a number. A payload that passes is parsed
    and may be one of another user, none that fails is one of this user.
    """
    plain = user_id.encode("utf-8", "surrogatepass")
    quoted = b'"%b"' % plain
    number = None
    if WHOLE_NUMBER.fullmatch(user_id):  # -0 is 0
        number = re.compile(rb"[:\s]-?%b[\s,}]" % re.escape(plain))

    def may_be_of_user(value: bytes | None) -> bool:
        if value is None:
            return False
        if quoted in value or b"\\" in value:
            return True
        return number is not None and plain in value and number.search(value) is not None

    return may_be_of_user


def read_stages(
    ranges: Ranges,
    starts: Mapping[int, int],
    ends: Mapping[int, int],
    user_id: str,
    left_out: Collection[Position] = (),
) -> list[Ranges]:
    """The offsets to read, the likeliest first, each once.

    ranges: of all records. starts, ends: by partition, the offsets of the times of the user's
    windows. left_out: late events, which are read too: later copies of them are not used.
    """
    near, later = {}, {}
    for number, span in ranges.items():
        own = [offset for partition, offset in left_out if partition == number]
        first = max(span.first, min([starts.get(number, span.first), *own]))
        middle = min(max(first, ends.get(number, span.end)), span.end)
        near[number], later[number] = (
            PartitionRange(first, middle),
            PartitionRange(middle, span.end),
        )
    own_partition = partition_of(user_id.encode("utf-8", "surrogatepass"), len(ranges))
    stages = []
    for spans in (near, later):
        filled = {number: span for number, span in spans.items() if span.end > span.first}
        own_span = {number: filled.pop(number) for number in (own_partition,) if number in filled}
        stages += [own_span, filled]
    return [stage for stage in stages if stage]


@dataclass
class EventSearch:
    """Selects the records of one user until all known events are found.

    known: None reads all.
    """

    user_id: str
    selection: RecordSelection
    known: KnownEvents | None
    found: set[bytes] = field(default_factory=set)
    stopped: bool = False  # before the last record

    def select(self, stages: Iterable[Iterable[Record]]) -> Iterator[SpooledRecord]:
        """Yields what the job's views shall read. A stage is not begun if it is not needed."""
        may_be_of_user = record_test(self.user_id)
        for stage in stages:
            records = (record for record in stage if may_be_of_user(record.value))
            for spooled in self.selection.select(records):
                yield spooled
                self.found.add(digest(as_id(load(spooled.payload).get("event_id"))))
                if self.known is not None and self.known.are_in(self.found):
                    self.stopped = True
                    return
