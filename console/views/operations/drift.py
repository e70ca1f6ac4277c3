"""Whether live events still look like the training data, and what audits have found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from console.charts.lines import LineChart, Sample, line_chart
from console.formats import number, utc, words
from liveprofile.audit.results import AuditResult
from services.operations import DriftHistory
from udfs.scoring.drift_store import Distance, DriftDecision, DriftState

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
            [_row(decision) for decision in decisions],
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


def _row(decision: DriftDecision) -> tuple[str, str, str, str]:
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
