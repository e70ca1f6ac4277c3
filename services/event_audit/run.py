"""An audit of the input topic: of all of it, or of a range while the job runs."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from typing import NamedTuple

from intake.files.rejected import CLAIMED_REASONS, POSITION_HEADERS
from liveprofile.errors import ServiceError
from liveprofile.feeds.users import read_erasures, read_merges
from liveprofile.kafka import offsets
from liveprofile.kafka.records import Record, read_topic
from liveprofile.kafka.topics import NoTopicError, PartitionRange
from liveprofile.settings import Settings
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import now_ms
from liveprofile.storage.queries import scan_digests
from services.event_audit.audit import Audit, Report, look_back
from services.event_audit.encoded import (
    DECODED,
    PRESENT,
    REJECTED,
    EncodedAudit,
    EncodedCounts,
    Position,
)
from services.event_audit.reconciliation import Reconciliation
from services.event_audit.results import AuditResult, last_noted, store_result
from services.event_audit.rows import NO_TIME

Ranges = Mapping[int, PartitionRange]
# Shows the progress of reading so many records.
Watch = Callable[[Iterable[Record], int], Iterable[Record]]
COUNTS = [field.name for field in fields(Reconciliation) if field.type is int]


class Audited(NamedTuple):
    report: Report
    encoded: EncodedCounts | None  # None: there are no encoded records
    behind: int  # records after the job's last checkpoint that are not audited
    ok: bool
    not_stored: str  # why the result is not stored; "": it is


def run_audit(
    settings: Settings,
    since_ms: int | None = None,
    *,
    new: bool = False,
    watch: Watch = lambda records, count: records,
) -> Audited:
    """Audits the whole topic, or the range that a record timestamp or the last audit begins.

    new: goes on after the last clean audit, and notes where the next one starts. Stores the result.
    Raises ServiceError.
    """
    plan = None
    # By partition, where a job began to read whose state was built from an archive.
    group = offsets.bootstrap_group(settings.kafka)
    starts = offsets.committed_offsets(settings, settings.topics.events, group)
    if since_ms is not None or new:
        plan = _plan_range(settings, since_ms, starts)
    # Read at the first call: after the deltas, if the whole topic is audited.
    erasures = cache(lambda: read_erasures(settings))
    with Audit(
        settings.window,
        plan and plan.first_window_ms,
        archive=bool(starts),
        is_erased=lambda user_id, start_ms: erasures().is_erased(user_id, start_ms),
        identities=read_merges(settings),
    ) as auditor:
        if plan is None:
            _read_whole_topic(settings, auditor, starts, watch)
        else:
            _read_range(settings, auditor, plan, watch)
        report = auditor.report()
    encoded = audit_encoded(settings, plan and plan.outputs_since_ms)
    ok = report.counts.ok and (encoded is None or encoded.ok)
    found = {name: getattr(report.counts, name) for name in COUNTS}
    result = AuditResult(now_ms(), ok, found, report.next_offsets if ok and new else None)
    not_stored = _store_result(settings, result)
    return Audited(report, encoded, plan.behind if plan else 0, ok, not_stored)


def _store_result(settings: Settings, result: AuditResult) -> str:
    """Returns why the result is not stored, or "".

    An account that may only read still gets its audit, but with --new the next one needs it: then
    raises ServiceError.
    """
    try:
        with open_session(settings.cassandra) as session:
            store_result(session, settings.topics.events, result, settings.cassandra.history_ttl_s)
    except ServiceError as error:
        if result.next_offsets is not None:
            raise
        return str(error)
    return ""


class RangePlan(NamedTuple):
    """What an audit of a range reads."""

    audited: dict[int, PartitionRange]  # records to classify
    read: dict[int, PartitionRange]  # the same, and earlier records
    outputs_since_ms: int  # record timestamp in the rejected and late topics
    first_window_ms: int  # `Audit.first_window_ms`
    behind: int  # records after the job's last checkpoint, which are not audited


def _read_whole_topic(
    settings: Settings, auditor: Audit, starts: Mapping[int, int], watch: Watch
) -> None:
    """Adds all deltas and the records from `starts` on. Raises ServiceError."""
    # The input topic is read last, so it contains the record of every output read before.
    with open_session(settings.cassandra) as session:
        auditor.add_deltas(scan_digests(session))
    auditor.add_outcomes(_outcomes(settings, None, None))
    ranges = {
        number: PartitionRange(max(span.first, starts.get(number, 0)), span.end)
        for number, span in offsets.partition_ranges(settings, settings.topics.events).items()
    }
    auditor.add_records(_records(settings, ranges, watch), ranges)


def _read_range(settings: Settings, auditor: Audit, plan: RangePlan, watch: Watch) -> None:
    """Adds the records and deltas of a range. Raises ServiceError."""
    rejected, late = (
        offsets.ranges_since(settings, topic, plan.outputs_since_ms)
        for topic in (settings.topics.rejected, settings.topics.late)
    )
    auditor.add_outcomes(_outcomes(settings, rejected, late))
    auditor.add_records(_records(settings, plan.read, watch), plan.audited)
    # Read last: it contains every event that the job has used by its checkpoint.
    if span := auditor.window_span():
        with open_session(settings.cassandra) as session:
            auditor.add_deltas(scan_digests(session, span))


def _plan_range(settings: Settings, since_ms: int | None, first: Mapping[int, int]) -> RangePlan:
    """Plans an audit from `since_ms`, else after the last one with --new, else from the start.

    first: by partition, the offset from which on the job reads.
    since_ms: record timestamp. The range ends at the job's last checkpoint: all that the job has
    done with earlier records is stored by then. Raises ServiceError.
    """
    topic = settings.topics.events
    committed = offsets.committed_offsets(settings, topic)
    present = offsets.partition_ranges(settings, topic)
    starts = {number: span.first for number, span in present.items()}
    if since_ms is not None:
        found = offsets.offsets_at(settings, topic, since_ms)
        starts = {number: found[number] for number in present}
    else:
        with open_session(settings.cassandra) as session:
            last = last_noted(session, topic)
        if last is not None:
            _require_retained(last.next_offsets, present, topic)
            starts |= last.next_offsets
    starts = {number: max(start, first.get(number, 0)) for number, start in starts.items()}
    ends = {number: min(committed.get(number, 0), span.end) for number, span in present.items()}
    audited = _ranges(starts, ends)

    back = look_back(_begin_ms(settings, audited), settings)
    earlier = offsets.offsets_at(settings, topic, back.input_ms)
    read = _ranges({number: min(earlier[number], starts[number]) for number in starts}, ends)
    if all(span.first == 0 for span in read.values()):
        back = back._replace(first_window_ms=NO_TIME)
    behind = sum(span.end - audited[number].end for number, span in present.items())
    return RangePlan(audited, read, back.outputs_ms, back.first_window_ms, behind)


def _ranges(starts: dict[int, int], ends: dict[int, int]) -> dict[int, PartitionRange]:
    return {
        number: PartitionRange(start, max(start, ends[number])) for number, start in starts.items()
    }


def _require_retained(
    starts: Mapping[int, int], present: dict[int, PartitionRange], topic: str
) -> None:
    """Records may not expire, and the topic may not be replaced, between two audits."""
    for number, start in starts.items():
        span = present.get(number, PartitionRange(0, 0))
        if number not in present or not span.first <= start <= span.end:
            raise ServiceError(
                f"the last audit stopped at offset {start} of {topic}/{number}, which now has"
                f" offsets {span.first} to {span.end}: records have expired or the topic was"
                " created anew. Start anew with --new and --since"
            )


def _begin_ms(settings: Settings, ranges: dict[int, PartitionRange]) -> int:
    """The smallest timestamp of the first records of the ranges; the present without records."""
    samples = {number: span.beginning() for number, span in ranges.items()}
    records = read_topic(settings, settings.topics.events, samples)
    return min((record.timestamp_ms for record in records), default=now_ms())


def _outcomes(
    settings: Settings, rejected: Ranges | None, late: Ranges | None
) -> Iterator[tuple[int, int, str]]:
    """As of `Audit.add_outcomes`. None: the whole topic."""
    topics = settings.topics
    for topic, ranges in ((topics.rejected, rejected), (topics.late, late)):
        for record in read_topic(settings, topic, ranges):
            source, partition, offset = (record.headers.get(name, b"") for name in POSITION_HEADERS)
            if not (source and partition.isdigit() and offset.isdigit()):
                raise ServiceError(
                    f"{topic}/{record.partition} offset {record.offset} has no valid source headers"
                    f" (topic, partition, offset), only {sorted(record.headers)}: did another"
                    " program write it?"
                )
            if source == topics.events.encode():
                reason = record.headers.get("reason", b"").decode("utf-8", "replace")
                if topic == topics.late:
                    outcome = "late"
                elif reason in CLAIMED_REASONS:
                    outcome = "claimed"
                else:
                    outcome = "rejected"
                yield int(partition), int(offset), outcome


def _records(settings: Settings, ranges: Ranges, watch: Watch) -> Iterable[Record]:
    """The records of the input topic."""
    count = sum(span.end - span.first for span in ranges.values())
    return watch(read_topic(settings, settings.topics.events, ranges), count)


def audit_encoded(settings: Settings, since_ms: int | None) -> EncodedCounts | None:
    """None if there are no encoded records.

    since_ms: record timestamp from which on records are audited; None: from the first one on whose
    outcome has not expired. Raises ServiceError.
    """
    topics = settings.topics
    try:
        present = offsets.partition_ranges(settings, topics.encoded)
    except NoTopicError:  # of a deployment without a decoder
        return None
    if not any(span.end for span in present.values()):
        return None
    committed = offsets.committed_offsets(
        settings, topics.encoded, offsets.decoder_group(settings.kafka)
    )
    # Outcomes are read after the offsets were committed: all of them exist.
    outputs = {
        topic: offsets.partition_ranges(settings, topic)
        for topic in (topics.events, topics.rejected)
    }
    since_ms = max(since_ms or 0, *(_oldest_ms(settings, *each) for each in outputs.items()))
    committed_ends = {
        number: PartitionRange(span.first, max(span.first, committed.get(number, 0)))
        for number, span in present.items()
    }
    audited = _since(settings, topics.encoded, committed_ends, since_ms)
    audit = EncodedAudit(audited)
    audit.mark(
        ((r.partition, r.offset) for r in read_topic(settings, topics.encoded, audited)), PRESENT
    )
    for topic, prefix, outcome in (
        (topics.events, "encoded_", DECODED),
        (topics.rejected, "", REJECTED),
    ):
        ranges = _since(settings, topic, outputs[topic], since_ms)
        audit.mark(_encoded_positions(settings, topic, ranges, prefix), outcome)
    return audit.counts(sum(span.end - audited[number].end for number, span in present.items()))


def _since(settings: Settings, topic: str, ranges: Ranges, since_ms: int) -> Ranges:
    starts = offsets.offsets_at(settings, topic, since_ms)
    return {
        number: PartitionRange(min(max(span.first, starts[number]), span.end), span.end)
        for number, span in ranges.items()
    }


def _oldest_ms(settings: Settings, topic: str, ranges: Ranges) -> int:
    """From which record timestamp on no record has expired from the topic; 0: none has at all."""
    firsts = {
        number: PartitionRange(span.first, min(span.end, span.first + 1))
        for number, span in ranges.items()
        if span.first > 0
    }
    found = {
        record.partition: record.timestamp_ms for record in read_topic(settings, topic, firsts)
    }
    return max((found.get(number, now_ms()) for number in firsts), default=0)


def _encoded_positions(
    settings: Settings, topic: str, ranges: Ranges, prefix: str
) -> Iterator[Position]:
    """The positions of encoded records that records of an output topic name in their headers."""
    encoded, names = settings.topics.encoded.encode(), [prefix + name for name in POSITION_HEADERS]
    for record in read_topic(settings, topic, ranges):
        source, partition, offset = (record.headers.get(name, b"") for name in names)
        if source == encoded and partition.isdigit() and offset.isdigit():
            yield int(partition), int(offset)
