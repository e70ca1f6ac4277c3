"""Hourly histograms: the cap per user, and open hours."""

from __future__ import annotations

import numpy as np

from liveprofile.drift.histograms import (
    MAX_EVENTS_PER_USER_HOUR,
    OPEN_HOURS,
    HourlyHistograms,
)
from liveprofile.drift.reference import DriftReference
from liveprofile.units import HOUR_MS
from tests.support.rows.drift_data import NAMES, START_MS, events


def test_first_events_of_a_user_per_hour_are_counted_over_batches(
    reference: DriftReference,
) -> None:
    """The cap holds across batches, and each hour has its own."""
    histograms = HourlyHistograms(reference, NAMES)
    x_NF, score_N = events(np.random.default_rng(14), 90)
    hour_N = START_MS + np.arange(90) % 2 * HOUR_MS
    user_N = ["heavy"] * 60 + [f"u{row}" for row in range(30)]
    for rows in (range(7), range(7, 50), range(50, 90)):
        histograms.add(x_NF, score_N, hour_N, user_N, rows)
        histograms.take_changed()
    for hour in (0, 1):
        rows = [*range(hour, 2 * MAX_EVENTS_PER_USER_HOUR, 2), *range(60 + hour, 90, 2)]
        alone = HourlyHistograms(reference, NAMES)
        alone.add(x_NF, score_N, hour_N, range(90), rows)
        (expected,) = alone.take_changed().values()
        assert (histograms._totals[START_MS + hour * HOUR_MS] == expected).all()


def test_old_hours_are_evicted_and_open_hours_keep_counting(reference: DriftReference) -> None:
    histograms = HourlyHistograms(reference, NAMES)
    rng = np.random.default_rng(6)
    for hour in range(20):
        x_NF, score_N = events(rng, 10)
        histograms.add(x_NF, score_N, np.full(10, START_MS + hour * HOUR_MS), range(10), range(10))
        found = histograms.take_changed()
        assert found[START_MS + hour * HOUR_MS][-1].sum() == 10
        assert len(histograms._totals) <= OPEN_HOURS + 1
    late = START_MS + (19 - OPEN_HOURS) * HOUR_MS
    for at_ms, seen in ((late, {late: 20}), (late - 1, {})):
        x_NF, score_N = events(rng, 10)
        histograms.add(x_NF, score_N, np.full(10, at_ms), range(10, 20), range(10))
        found = histograms.take_changed()
        assert {hour: counts_SW[-1].sum() for hour, counts_SW in found.items()} == seen
