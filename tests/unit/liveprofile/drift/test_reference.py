"""The drift reference: bins, spreads, and its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtr

from liveprofile.drift.comparison import (
    assess_drift,
)
from liveprofile.drift.histograms import (
    MAX_EVENTS_PER_USER_HOUR,
    HourlyHistograms,
)
from liveprofile.drift.reference import ALERT_RATE, REFERENCE_FILE, SCORE, DriftReference
from liveprofile.errors import InputError
from liveprofile.resources import product_path
from liveprofile.settings import load
from liveprofile.units import HOUR_MS
from models.fraud.model import FraudModel
from models.fraud.training import drift_reference
from tests.support.rows.drift_data import ALERT_SCORE, NAMES, START_MS, counts, events, series


def test_bins_are_finer_in_tails_and_frequent_value_has_its_own_bin(
    reference: DriftReference,
) -> None:
    amount = series(reference, "amount")
    below = np.cumsum(amount.share_B)[:-2]
    assert np.allclose(below, ndtr(np.arange(-3.5, 4.0, 0.5)), atol=0.001)
    assert amount.share_B[-1] < 1e-4
    rare = series(reference, "new_device")
    assert rare.edges == (0.0,)
    assert rare.bins(np.array([0, 1, np.nan])).tolist() == [0, 1, 2]
    assert series(reference, "seconds").share_B[-1] == pytest.approx(0.2, abs=0.01)
    each_N = np.arange(100)
    mostly_one = drift_reference.build_drift_reference(
        np.array([[0.0]] * 5 + [[1.0]] * 95, np.float32), ["a"], each_N * 0, each_N * 0, each_N, 0.5
    )
    assert mostly_one.series[0].edges == (0.0,)
    assert mostly_one.series[0].counts == (5, 95, 0)


@pytest.mark.parametrize(("share", "first"), [(0.6, 1), (0.4, 0)])
def test_zero_bin_is_no_value_bin_if_most_values_are_positive(share: float, first: int) -> None:
    rng, each_N = np.random.default_rng(12), np.arange(40_000)
    x_N1 = np.where(rng.random(40_000) < share, rng.lognormal(3, 1, 40_000), 0)[:, None]
    scores_N = rng.random(40_000)
    made = drift_reference.build_drift_reference(
        x_N1.astype(np.float32), ["a"], scores_N, each_N, each_N, 2.0
    )
    (found, _, _) = made.series
    assert found.edges[0] == 0
    assert len(found.edges) == 16
    assert found.value_bins == slice(first, -1)
    assert found.normal_score_K @ found.counts[found.value_bins] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, 7.0])
def test_new_value_of_a_constant_feature_is_drift(value: float) -> None:
    x_NF = np.full((1_000, 1), value, np.float32)
    scores_N, each_N = np.linspace(0, 1, 1_000), np.arange(1_000)
    made = drift_reference.build_drift_reference(x_NF, ["a"], scores_N, each_N * 0, each_N, 0.5)
    same, new = HourlyHistograms(made, ["a"]), HourlyHistograms(made, ["a"])
    for histograms, column in ((same, x_NF), (new, x_NF * 0 + 9), (new, np.zeros_like(x_NF) + 9)):
        histograms.add(column, scores_N, np.full(1_000, START_MS), each_N, range(1_000))
    assert not assess_drift(made, same.take_changed()[START_MS]).drifted
    assert assess_drift(made, new.take_changed()[START_MS]).reasons[0]["name"] == "a"


def test_alert_rate_counts_scores_at_the_alert_score() -> None:
    made = drift_reference.build_drift_reference(
        np.zeros((4, 1), np.float32),
        ["a"],
        np.array([0.1, 0.4, 0.39, 0.9]),
        np.zeros(4),
        np.arange(4),
        0.4,
    )
    assert series(made, ALERT_RATE).counts == (2, 2, 0)


def test_saved_reference_is_loaded_and_unknown_format_rejected(
    reference: DriftReference, tmp_path: Path
) -> None:
    assert DriftReference.load(tmp_path) is None
    reference.save(tmp_path)
    again = DriftReference.load(tmp_path)
    assert (again, again.version) == (reference, reference.version)
    text = (tmp_path / REFERENCE_FILE).read_text()
    (tmp_path / REFERENCE_FILE).write_text(text.replace('"format": 2', '"format": 9'))
    with pytest.raises(InputError, match="format 9, this version reads 2"):
        DriftReference.load(tmp_path)


def test_reference_of_format_1_is_ignored_with_a_warning(
    reference: DriftReference, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference.save(tmp_path)
    text = (tmp_path / REFERENCE_FILE).read_text()
    (tmp_path / REFERENCE_FILE).write_text(text.replace('"format": 2', '"format": 1'))
    assert DriftReference.load(tmp_path) is None
    assert "rebuild it (liveprofile risk drift reference)" in caplog.text


def test_daily_reference_uses_the_spread_of_days() -> None:
    """Every other day all amounts are doubled: the hours of a day are alike, the days are not."""
    rng = np.random.default_rng(6)
    x_NF, score_N = events(rng, 48_000)
    hour_N = np.arange(48_000) // 100
    plain = drift_reference.build_drift_reference(
        x_NF, NAMES, score_N, hour_N, np.arange(48_000), ALERT_SCORE
    )
    x_NF[:, NAMES.index("amount")] *= 1 + (hour_N // 24 % 2)
    waves = drift_reference.build_drift_reference(
        x_NF, NAMES, score_N, hour_N, np.arange(48_000), ALERT_SCORE
    )
    of_hours, daily = (series(one, "amount") for one in (waves, waves.daily))
    assert daily.spread == of_hours.day_spread > 5 * of_hours.spread
    assert daily.shift_spread == of_hours.day_shift_spread > 5 * of_hours.shift_spread
    assert series(plain, "amount").day_spread < 1.5
    # A day like the others is no drift by the spread of days, but is by the spread of hours.
    day = x_NF[24 * 100 : 48 * 100], score_N[24 * 100 : 48 * 100]
    assert "amount" in assess_drift(waves, counts(waves, *day)).drifted
    assert "amount" not in assess_drift(waves.daily, counts(waves, *day)).drifted


def test_repeated_events_within_hours_raise_the_spread() -> None:
    """Every event occurs four times in its hour, so the spread is four."""
    rng = np.random.default_rng(5)
    x_NF, score_N = events(rng, 20_000)
    hour_N = np.arange(20_000) // 100
    each_N = np.arange(80_000)
    alone = drift_reference.build_drift_reference(
        x_NF, NAMES, score_N, hour_N, each_N[:20_000], ALERT_SCORE
    )
    copies = drift_reference.build_drift_reference(
        np.repeat(x_NF, 4, axis=0),
        NAMES,
        np.repeat(score_N, 4),
        np.repeat(hour_N, 4),
        each_N,
        ALERT_SCORE,
    )
    for name in ("amount", "seconds", SCORE):
        assert series(alone, name).shift_spread == pytest.approx(1, abs=0.25)
        assert series(copies, name).shift_spread == pytest.approx(4, rel=0.25)
    for name in ("amount", "seconds", SCORE, ALERT_RATE):
        assert series(alone, name).spread == pytest.approx(1, abs=0.25)
        assert series(copies, name).spread == pytest.approx(4, rel=0.25)


def test_reference_counts_equal_the_job_histograms() -> None:
    x_NF, score_N = events(np.random.default_rng(15), 400)
    user_N, hour_N = np.arange(400) % 7, np.arange(400) // 100
    made = drift_reference.build_drift_reference(x_NF, NAMES, score_N, hour_N, user_N, ALERT_SCORE)
    histograms = HourlyHistograms(made, NAMES)
    histograms.add(x_NF, score_N, START_MS + hour_N * HOUR_MS, user_N, range(400))
    found = sum(histograms.take_changed().values())
    assert made.events == 4 * 7 * MAX_EVENTS_PER_USER_HOUR
    for expected, counts_W in zip(made.series, found, strict=True):
        assert tuple(counts_W[: len(expected.counts)]) == expected.counts


def test_reference_of_another_model_is_rejected(reference: DriftReference, tmp_path: Path) -> None:
    model = FraudModel.load(product_path(load().scoring.checkpoint))
    replace(model, reference=reference).save(tmp_path)
    with pytest.raises(InputError, match="its drift reference has new_device"):
        FraudModel.load(tmp_path)
