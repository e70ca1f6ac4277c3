"""What operators see: the job, latencies, audits, drift, rejected records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from console.charts import BarChart, LineChart, Sample, bar_chart, line_chart
from console.formats import number, utc, words
from console.job import JobFacts
from liveprofile.audit.results import AuditResult
from liveprofile.flink.operator_metrics import (
    BUCKETS_MS,
    EVENT_TO_ALERT,
    EVENT_TO_SCORE,
    WINDOW_TO_PROFILE,
    LatencyCounts,
)
from liveprofile.ingest.rejected import RejectedRecord
from services.operations import DriftHistory
from services.trends import TrendPoints
from udfs.scoring.drift_store import Distance, DriftDecision, DriftState

MEGA = 1e6


class TrendView(NamedTuple):
    chart: LineChart | None
    complete_until_ms: int
    outside: list[str]  # times and values outside of the expected range, newest first


def job_figures(facts: JobFacts) -> list[tuple[str, str]]:
    """The figures of `liveprofile job status`, with their names."""
    job, checkpoint, scoring = facts.job, facts.job.checkpoint, facts.scoring
    figures = [
        ("state", f"{job.state.lower()} for {number(job.uptime_s / 3_600)} hours"),
        ("tasks", f"{job.tasks_running} of {job.tasks} run"),
        ("restarts", number(job.restarts)),
        ("events per second", number(job.events_per_second, 1)),
        ("profile pipeline, records behind", number(facts.lag_events)),
    ]
    if facts.lag_scoring is not None:
        figures.append(("scoring pipeline, records behind", number(facts.lag_scoring)))
    if scoring is not None:
        figures += [
            ("events to score since the start", number(scoring.events)),
            ("of these incomplete", number(scoring.incomplete)),
            ("of these not scored", number(scoring.unscored)),
        ]
    if checkpoint is None:
        figures.append(("last checkpoint", "none yet"))
    else:
        figures += [
            ("last checkpoint", f"{number(checkpoint.age_s, 0)} s ago"),
            ("it took", f"{number(checkpoint.duration_ms)} ms"),
            ("size of its state", f"{number(checkpoint.size_bytes / MEGA, 1)} MB"),
        ]
    figures.append(("failed checkpoints", number(job.checkpoints_failed)))
    if facts.models and facts.models.highest_revision:
        figures.append(("user model, revision", number(facts.models.highest_revision)))
    return figures


def trend_view(trend: TrendPoints) -> TrendView:
    samples = [
        Sample(
            point.start_ms,
            point.value,
            f"{utc(point.start_ms)}: {number(point.value)}",
            point.low,
            point.high,
            f"outside the range: {number(point.value)}" if point.outside else "",
        )
        for point in trend.points
    ]
    outside = [
        f"{utc(point.start_ms)}: {number(point.value)}, expected {number(point.low)} to"
        f" {number(point.high)}"
        for point in reversed(trend.points)
        if point.outside
    ]
    return TrendView(line_chart(samples), trend.complete_until_ms, outside)


NAMES = {
    EVENT_TO_ALERT: "event until alert",
    EVENT_TO_SCORE: "event until score stored",
    WINDOW_TO_PROFILE: "window closed until profile stored",
}


class LatencyRow(NamedTuple):
    name: str
    measured: str
    mean: str
    half: str
    most: str  # 99 %
    chart: BarChart


def latency_rows(latencies: Mapping[str, LatencyCounts]) -> list[LatencyRow]:
    """Those that have been measured."""
    return [
        _latency_row(name, latencies[key])
        for key, name in NAMES.items()
        if _is_known(latencies, key)
    ]


def _is_known(latencies: Mapping[str, LatencyCounts], key: str) -> bool:
    return key in latencies and latencies[key].count > 0


def _latency_row(name: str, counts: LatencyCounts) -> LatencyRow:
    reached = [0, *counts.buckets.values()]
    shares = [(high - low) / counts.count for low, high in pairwise(reached)]
    labels = [*map(_short, BUCKETS_MS), "more"]
    return LatencyRow(
        name,
        number(counts.count),
        _written(counts.sum_ms / counts.count),
        _within(counts, 0.5),
        _within(counts, 0.99),
        bar_chart(labels, [("share", shares)]),
    )


def _within(counts: LatencyCounts, share: float) -> str:
    bound_ms = counts.bound_ms(share)
    return f"more than {_short(BUCKETS_MS[-1])}" if bound_ms is None else _written(bound_ms)


def _written(ms: float) -> str:
    return f"{number(ms, 0)} ms" if ms < 1_000 else f"{number(ms / 1_000, 1)} s"


def _short(ms: int) -> str:
    return f"{ms} ms" if ms < 1_000 else f"{number(ms / 1_000, 1)} s"


SHOWN = 3


class DriftPeriods(NamedTuple):
    kind: str  # hour or day
    verdict: str
    is_drifting: bool
    rows: list[tuple[str, str, str, str]]  # start, events, verdict, largest distances
    chart: LineChart | None  # the largest distance of each period, in limits


class AuditView(NamedTuple):
    ended_ms: int
    ok: bool
    figures: list[tuple[str, str]]


def drift_periods(history: DriftHistory) -> list[DriftPeriods]:
    return [
        DriftPeriods(
            kind,
            _verdict(state),
            state.since_ms is not None,
            [_decision_row(decision) for decision in decisions],
            line_chart([_sample(each) for each in decisions]),
        )
        for kind, (state, decisions) in history.periods.items()
    ]


def audit_views(results: Sequence[AuditResult]) -> list[AuditView]:
    return [AuditView(each.ended_ms, each.ok, _figures(each.counts)) for each in results]


def _figures(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    return [(words(name), number(count)) for name, count in counts.items()]


def _verdict(state: DriftState) -> str:
    if state.decided_until_ms is None:
        return "No period is evaluated yet."
    found = "No drift" if state.since_ms is None else f"Drifting since {utc(state.since_ms)}"
    return f"{found}, evaluated until {utc(state.decided_until_ms)} UTC."


def _decision_row(decision: DriftDecision) -> tuple[str, str, str, str]:
    distances = "; ".join(map(_distance, decision.relative[:SHOWN]))
    verdict = "drift" if decision.drifting else "no drift"
    return utc(decision.start_ms), number(decision.events), verdict, distances


def _distance(each: Distance) -> str:
    limit = "no limit" if each.limit is None else f"limit {number(each.limit)}"
    return f"{words(each.name)} {number(each.value)} ({limit})"


def _sample(decision: DriftDecision) -> Sample:
    [largest, *_] = decision.relative or [Distance("", 0.0, None)]
    title = f"{utc(decision.start_ms)}: {number(largest.relative)} limits, {words(largest.name)}"
    mark = title if decision.drifting else ""
    return Sample(decision.start_ms, largest.relative, title, mark=mark)


PAYLOAD_CHARS = 100


class RejectedRow(NamedTuple):
    id: str
    time_ms: int
    reason: str
    detail: str
    original: str
    payload: str  # its start


class RejectedDetail(NamedTuple):
    row: RejectedRow
    payload: str
    notes: list[str]


def rejected_row(record: RejectedRecord) -> RejectedRow:
    text = text_of(record)
    return RejectedRow(
        record.id,
        record.rejected_at_ms,
        words(record.reason),
        record.detail,
        f"{record.topic}/{record.partition} offset {record.offset}",
        text if len(text) <= PAYLOAD_CHARS else f"{text[:PAYLOAD_CHARS]}…",
    )


def rejected_detail(record: RejectedRecord) -> RejectedDetail:
    notes = []
    if record.claimed:
        notes.append("The event_id is already used: give the corrected event a new one.")
    if record.truncated:
        notes.append("The payload is truncated: the original record has all of it.")
    if record.payload is None:
        notes.append("The record has no payload.")
    return RejectedDetail(rejected_row(record), text_of(record), notes)


def reasons(records: Sequence[RejectedRecord]) -> list[tuple[str, int]]:
    """How many records have each reason, most frequent first."""
    return Counter(record.reason for record in records).most_common()


def text_of(record: RejectedRecord) -> str:
    return record.as_dict()["payload"] or ""


def sent_payload(record: RejectedRecord, text: str) -> bytes:
    """What a form has sent. Browsers send a line break as CR LF; an unedited text is the record."""
    lines = text.replace("\r\n", "\n")
    is_same = record.payload is not None and lines == text_of(record).replace("\r\n", "\n")
    return record.payload if is_same else lines.encode()
