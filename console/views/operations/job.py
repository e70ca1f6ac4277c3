"""The state of the job and the trends of its input, computed from reports."""

from __future__ import annotations

from typing import NamedTuple

from console.charts.lines import LineChart, Sample, line_chart
from console.formats import number, utc
from console.job import JobFacts
from services.trends import TrendPoints

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
            f"outside of the range: {number(point.value)}" if point.outside else "",
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
