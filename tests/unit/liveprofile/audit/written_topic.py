"""Audits of topics that a test writes record by record."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from liveprofile.audit.audit import Audit, Report
from liveprofile.audit.reconciliation import Reconciliation
from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import WindowSettings
from liveprofile.units import MINUTE_MS
from liveprofile.wire.payload import digest
from tests.unit.liveprofile.audit.simulated_job import Delta, InputRecord

WINDOW = WindowSettings(length_ms=60_000, out_of_orderness_ms=1_000)
START_MS = 1_500_000_000_000 // MINUTE_MS * MINUTE_MS

ARRIVAL_MS = 1_000_000_000  # all events are replayed later


class Topic:
    """The input topic. `add` appends an event, `raw` appends bytes."""

    def __init__(self) -> None:
        self.records: list[InputRecord] = []

    def add(
        self, event_id: object, at_ms: int = 0, user_id: object = "u", partition: int = 0
    ) -> None:
        event = {"event_id": event_id, "user_id": user_id, "event_type": "view"}
        self.raw(json.dumps(event | {"event_time": START_MS + at_ms}).encode(), partition)

    def heartbeat(self, at_ms: int, partition: int = 0, record_ms: int = ARRIVAL_MS) -> None:
        event = {"event_type": "heartbeat", "event_time": START_MS + at_ms}
        self.raw(json.dumps(event).encode(), partition, record_ms)

    def raw(self, value: bytes | None, partition: int = 0, record_ms: int = ARRIVAL_MS) -> None:
        offset = sum(record.partition == partition for record in self.records)
        timestamp_ms = START_MS + record_ms + len(self.records)
        self.records.append(InputRecord(partition, offset, timestamp_ms, value))


def stored(*event_ids: str, user_id: str = "u") -> Delta:
    digests = b"".join(map(digest, event_ids))
    return Delta(user_id, START_MS, START_MS + MINUTE_MS, len(event_ids), digests)


def offsets_of(topic: Topic) -> dict[int, PartitionRange]:
    ends = Counter(record.partition for record in topic.records)
    return {partition: PartitionRange(0, end) for partition, end in ends.items()}


def audited(
    topic: Topic,
    *deltas: Delta,
    rejected=(),
    claimed=(),
    late=(),
    empty=(),
    window=WINDOW,
    first=0,
    archive=False,
    erased=(),
    identities=None,
) -> Report:
    """The report of an audit of the whole topic, whose records before `first` have expired.

    erased: users and starts of windows. identities: merges that the job follows.
    """

    def is_erased(user_id: str, start_ms: int) -> bool:
        return (user_id, start_ms) in erased

    with Audit(window, archive=archive, is_erased=is_erased, identities=identities) as audit:
        audit.add_rejected(rejected)
        audit.add_rejected(claimed, claimed=True)
        audit.add_late(late)
        audit.add_deltas(deltas)
        spans = {number: span._replace(first=first) for number, span in offsets_of(topic).items()}
        audit.add_records(topic.records, spans | dict.fromkeys(empty, PartitionRange(0, 0)))
        return audit.report()


def reconciled(topic: Topic, *deltas: Delta, **more: Any) -> Reconciliation:
    return audited(topic, *deltas, **more).counts
