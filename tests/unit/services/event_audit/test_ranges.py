"""Audits of ranges count and skip nothing twice, and check only what the range can prove."""

import itertools
import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liveprofile.kafka.topics import PartitionRange
from liveprofile.units import MINUTE_MS
from liveprofile.wire.window_events import digest
from services.event_audit.audit import PART_ROWS, Audit, Report, look_back
from services.event_audit.rows import NO_TIME
from tests.unit.services.event_audit.topics import (
    PARTITIONS,
    SETTINGS,
    START_MS,
    SimulatedJob,
    Step,
    steps,
)

# Counted once for each record, whatever the ranges are. Whether a window is open depends on when
# the audit runs.
ADDITIVE = (
    "in_topic", "heartbeats", "used", "duplicate", "late", "rejected", "unaccounted",
    "used_twice", "late_and_used",
)  # fmt: skip

# Close all windows of the steps before them.
CLOSING = (
    Step("heartbeat", 0, 2 * MINUTE_MS, 0, 0, False),
    Step("heartbeat", 1, 0, 0, 0, False),
)


def outcomes(job: SimulatedJob, since_ms: int = 0) -> Iterator[tuple[int, int, str]]:
    for outcome, records in (("rejected", job.rejected), ("late", job.late)):
        for record in records:
            if record.timestamp_ms >= since_ms:
                yield record.partition, record.offset, outcome


def audit_whole(job: SimulatedJob, part_rows: int = PART_ROWS, order: int = 1) -> Report:
    """order: -1 adds the last record first."""
    with Audit(SETTINGS.window, part_rows=part_rows) as audit:
        audit.add_deltas(job.deltas)
        audit.add_outcomes(outcomes(job))
        ranges = {number: PartitionRange(0, end) for number, end in enumerate(job.ends())}
        audit.add_records(job.records[::order], ranges)
        return audit.report()


def audit_range(
    job: SimulatedJob, starts: list[int], ends: list[int], part_rows: int = PART_ROWS
) -> Report:
    """Reads what `liveprofile events audit --new` reads."""
    ranges = {
        number: PartitionRange(start, max(start, end))
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    }
    times = [
        record.timestamp_ms
        for record in job.records
        if ranges[record.partition].first <= record.offset < ranges[record.partition].end
    ]
    back = look_back(min(times, default=START_MS), SETTINGS)
    read = [
        record
        for record in job.records
        if record.offset < ranges[record.partition].end
        and (
            record.timestamp_ms >= back.input_ms or record.offset >= ranges[record.partition].first
        )
    ]
    whole = job.records[0] in read and job.records[0].timestamp_ms >= back.input_ms
    with Audit(
        SETTINGS.window, NO_TIME if whole else back.first_window_ms, part_rows=part_rows
    ) as audit:
        audit.add_outcomes(outcomes(job, back.outputs_ms))
        audit.add_records(read, ranges)
        if span := audit.window_span():
            audit.add_deltas(d for d in job.deltas if span[0] <= d.window_end_ms <= span[1])
        return audit.report()


def additive(report: Report) -> Counter[str]:
    return Counter({name: getattr(report.counts, name) for name in ADDITIVE})


def assert_audits_agree(all_steps: Sequence[Step], cuts: Collection[int]) -> SimulatedJob:
    """The audits of the ranges between cuts, of the whole topic, and the job count the same.

    cuts: numbers of steps after which a range ends. Returns the job after all steps.
    """
    job = SimulatedJob()
    ends = [[0] * PARTITIONS]
    for number, step in enumerate(all_steps, 1):
        job.process(step)
        if number in cuts or number == len(all_steps):
            ends.append(job.ends())
    total = Counter()
    for start, end in itertools.pairwise(ends):
        report = audit_range(job, start, end)
        assert report.counts.unknown == 0
        total.update(additive(report))
    whole = audit_whole(job)
    # Parts of event_ids, classified one after the other, of records in another order.
    assert whole == audit_whole(job, part_rows=10, order=-1)
    assert whole.counts.unknown == 0
    expected = {
        "used": sum(delta.events for delta in job.deltas),
        "late": len(job.late),
        "rejected": len(job.rejected),
        "duplicate": job.duplicates,
        "heartbeats": sum(b'"heartbeat"' in record.value for record in job.records),
    }
    assert expected.items() <= additive(whole).items()
    assert total == additive(whole)
    return job


@pytest.mark.slow
@given(st.data())
@settings(max_examples=30)
def test_audits_of_ranges_add_up_to_the_audit_of_the_topic(data):
    all_steps = data.draw(steps(losses=True))
    cuts = set(data.draw(st.lists(st.integers(0, len(all_steps)), max_size=5)))
    assert_audits_agree(all_steps, cuts)


def test_lost_record_whose_copy_is_used_counts_as_if_the_copy_were_lost():
    """The topics and deltas are the same, so no audit can tell which of the two the job used."""
    jobs = []
    for first_is_lost in (True, False):
        event = Step("event", 0, 0, 0, 0, first_is_lost)
        copy = Step("copy", 0, 35, 0, 0, not first_is_lost)
        jobs.append(assert_audits_agree([event, copy, *CLOSING], cuts=[1]))
        assert jobs[-1].duplicates == 1
    first, second = ((job.records, job.deltas, job.late, job.rejected) for job in jobs)
    assert first == second


def test_record_that_is_lost_before_a_late_copy_is_unaccounted():
    event, copy = Step("event", 0, 0, 0, 0, True), Step("copy", 0, 35, 0, 0, False)
    job = assert_audits_agree([event, *CLOSING, copy, copy], cuts=[1])
    counts = audit_whole(job).counts
    assert (counts.used, counts.unaccounted, counts.late, counts.duplicate) == (0, 1, 1, 1)


@pytest.mark.slow
@given(st.data(), st.booleans())
@settings(max_examples=30)
def test_continued_audits_skip_no_record(data, losses):
    """The job runs while it is audited; each audit starts where the last clean one ended."""
    job, starts = SimulatedJob(), [0] * PARTITIONS
    all_steps = data.draw(steps(losses))
    cuts = set(data.draw(st.lists(st.integers(0, len(all_steps)), max_size=8)))
    for number, step in enumerate(all_steps, 1):
        job.process(step)
        if number not in cuts:
            continue
        report = audit_range(job, starts, job.ends())
        assert losses or report.counts.ok
        if report.counts.ok:
            starts = list(report.next_offsets.values())
    traces = {(partition, offset) for partition, offset, _ in outcomes(job)}
    stored = {
        delta.digests[at : at + 8] for delta in job.deltas for at in range(0, len(delta.digests), 8)
    }
    for record in job.records:
        event = json.loads(record.value)
        audited = record.offset < starts[record.partition]
        if audited and event["event_type"] != "heartbeat":
            in_topic = (record.partition, record.offset) in traces
            copy_is_late = digest(event["event_id"]) in {
                digest(json.loads(one.value)["event_id"]) for one in job.late
            }
            assert in_topic or copy_is_late or digest(event["event_id"]) in stored


def job_of(*made: Step | tuple[str, int, int]) -> SimulatedJob:
    """A job that has read steps, or (kind, after_ms, age_ms) of partition 0, in a quiet topic."""
    job = SimulatedJob()
    job.process(Step("heartbeat", 1, 0, 0, 0, False))
    for step in made:
        job.process(step if isinstance(step, Step) else Step(step[0], 0, *step[1:], 0, False))
    return job


def close_windows(job: SimulatedJob) -> None:
    for partition in range(PARTITIONS):
        job.process(Step("heartbeat", partition, 2 * MINUTE_MS, 0, 0, False))


def test_copy_in_a_lower_partition_of_an_event_before_the_range_is_a_duplicate():
    job = job_of(Step("event", 1, 0, 0, 0, False))
    event, starts = job.records[-1], job.ends()
    job.records.append(event._replace(partition=0, offset=0))
    close_windows(job)
    report = audit_range(job, starts, job.ends())
    assert report.counts.ok
    assert (report.counts.used, report.counts.duplicate) == (0, 1)


def test_late_copy_of_an_event_used_longer_ago_than_the_look_back_is_late():
    job = job_of(("event", 0, 0))
    first = job.records[-1]
    close_windows(job)
    job.process(Step("heartbeat", 0, 10 * MINUTE_MS, 0, 0, False))
    starts = job.ends()
    copy = first._replace(offset=starts[0], timestamp_ms=job.records[-1].timestamp_ms + 1)
    job.records.append(copy)
    job.late.append(copy)
    report = audit_range(job, starts, job.ends())
    assert report.counts.ok
    assert report.counts.late == 1
    assert audit_whole(job).counts.ok


def with_unknown(job: SimulatedJob) -> SimulatedJob:
    """Adds an event without a record to the job's only delta."""
    (delta,) = job.deltas
    digests = delta.digests + digest("unknown")
    job.deltas = [delta._replace(events=delta.events + 1, digests=digests)]
    return job


def test_stored_event_of_a_window_that_began_before_the_look_back_is_not_checked():
    job = job_of()
    for partition in range(PARTITIONS):
        job.process(Step("heartbeat", partition, 10 * MINUTE_MS, 10 * MINUTE_MS, 0, False))
    starts = job.ends()
    job.process(Step("event", 0, 0, 10 * MINUTE_MS, 0, False))
    close_windows(job)
    report = audit_range(with_unknown(job), starts, job.ends())
    assert report.counts.ok
    assert (report.counts.used, report.counts.unknown) == (1, 0)
