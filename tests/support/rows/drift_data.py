"""Synthetic events and a drift reference for the drift tests."""

import numpy as np

from liveprofile.drift.reference import DriftReference, HourlyHistograms, Series
from liveprofile.units import DAY_MS
from models.fraud.training import drift_reference

NAMES = ["amount", "new_device", "seconds"]
START_MS = 19_700 * DAY_MS
ALERT_SCORE = 0.4


def events(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (count, 3) values of NAMES and (count,) scores."""
    x_NF = np.column_stack(
        [rng.lognormal(3, 1, count), rng.random(count) < 0.03, rng.exponential(900, count)]
    ).astype(np.float32)
    x_NF[rng.random(count) < 0.2, 2] = np.nan
    return x_NF, rng.beta(0.3, 5, count)


def make_reference() -> DriftReference:
    rng = np.random.default_rng(1)
    x_NF, score_N = events(rng, 40_000)
    each_N = np.arange(40_000)
    return drift_reference.build_drift_reference(
        x_NF, NAMES, score_N, each_N // 400, each_N, ALERT_SCORE
    )


def series(reference: DriftReference, name: str) -> Series:
    return next(series for series in reference.series if series.name == name)


def counts(reference: DriftReference, x_NF: np.ndarray, score_N: np.ndarray) -> np.ndarray:
    histograms, rows = HourlyHistograms(reference, NAMES), range(len(score_N))
    histograms.add(x_NF, score_N, np.full(len(score_N), START_MS), rows, rows)
    return histograms.take_changed()[START_MS]
