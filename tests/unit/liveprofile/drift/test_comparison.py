"""The comparison with the reference: PSI, mean shift, alert rate."""

from __future__ import annotations

import numpy as np
import pytest

from liveprofile.drift.comparison import (
    CHANCE,
    EVENT_FIELD_CHANCE,
    MIN_EVENTS,
    assess_drift,
    mean_shift,
    psi,
    psi_bound,
    psi_per_bin,
    shift_bound,
)
from liveprofile.drift.histograms import (
    HourlyHistograms,
)
from liveprofile.drift.reference import ALERT_RATE, SCORE, DriftReference, Series
from tests.support.rows.drift_data import NAMES, START_MS, counts, events, series


@pytest.mark.parametrize("count", [MIN_EVENTS, 100, 1_000])
def test_psi_without_shift_has_the_published_mean_and_quantile(count: int) -> None:
    deciles = Series("a", tuple(range(9)), (4_000,) * 10 + (0,))
    rng = np.random.default_rng(2)
    drawn = rng.multinomial(count, deciles.share_B, 4_000)
    values = np.array([psi_per_bin(one, deciles.share_B).sum() for one in drawn])
    # The bin of missing values is empty in the reference: ten bins count.
    assert values.mean() == pytest.approx(9 / count, rel=0.12)
    assert (values > psi_bound(deciles, count)).mean() < 20 * CHANCE
    assert psi_bound(deciles, 1) == pytest.approx(33.72, abs=0.01)


@pytest.mark.parametrize("count", [MIN_EVENTS, 100, 1_000])
def test_bounds_are_exceeded_by_chance_at_the_given_rate(
    reference: DriftReference, count: int
) -> None:
    amount = series(reference, "amount")
    drawn = np.random.default_rng(2).multinomial(count, amount.share_B, 20_000)
    psi_D = np.array([psi(amount, one) for one in drawn])
    square_D = np.array([mean_shift(one, amount) ** 2 for one in drawn])
    assert (psi_D > psi_bound(amount, count)).mean() < 20 * CHANCE
    for chance in (CHANCE, EVENT_FIELD_CHANCE):
        found = (square_D / amount.shift_spread > shift_bound(amount, count, chance)).mean()
        assert found < 2 * chance + 2e-4


@pytest.mark.parametrize("factor", [1 / 2, 2, 3])
def test_mean_shift_is_in_standard_deviations(reference: DriftReference, factor: float) -> None:
    """The logarithm of the amounts is normal with a standard deviation of 1."""
    x_NF, score_N = events(np.random.default_rng(13), 40_000)
    found = counts(reference, (x_NF * [factor, 1, 1]).astype(np.float32), score_N)
    amount = reference.series[0]
    assert mean_shift(found[0][: len(amount.counts)], amount) == pytest.approx(
        np.log(factor), abs=0.03
    )


def test_data_like_the_reference_does_not_drift(reference: DriftReference) -> None:
    rng = np.random.default_rng(3)
    for count in (60, 300, 3_000) * 30:
        verdict = assess_drift(reference, counts(reference, *events(rng, count)))
        assert not verdict.drifted
        assert verdict.events == count


def test_events_of_one_user_make_no_drift(reference: DriftReference) -> None:
    """31 expensive purchases among 121 events of an hour: drift if 31 users made them."""
    x_NF, score_N = events(np.random.default_rng(16), 121)
    x_NF[:31] = [300, 1, 5]
    for user_N, drifted in (([0] * 31 + [*range(1, 91)], False), (range(121), True)):
        histograms = HourlyHistograms(reference, NAMES)
        histograms.add(x_NF, score_N, np.full(121, START_MS), user_N, range(121))
        verdict = assess_drift(reference, histograms.take_changed()[START_MS])
        assert ("amount" in verdict.drifted, verdict.exceeds(2.0)) == (drifted, drifted)


def test_too_few_events_return_no_verdict(reference: DriftReference) -> None:
    x_NF, score_N = events(np.random.default_rng(3), MIN_EVENTS - 1)
    assert assess_drift(reference, counts(reference, x_NF * 100, score_N)) is None


@pytest.mark.parametrize(
    ("shift", "code", "name"),
    [
        (lambda x, s: (x * [3, 1, 1], s), "DRIFT_FEATURE", "amount"),
        (lambda x, s: (x * [np.nan, 1, 1], s), "DRIFT_MISSING", "amount"),
        (lambda x, s: (np.nan_to_num(x, nan=1.0), s), "DRIFT_MISSING", "seconds"),
        (lambda x, s: (np.maximum(x, [0, 1, 0]), s), "DRIFT_FEATURE", "new_device"),
        (lambda x, s: (x, s / 2 + 0.2), "DRIFT_SCORE", SCORE),
        (
            lambda x, s: (x, np.where(np.arange(len(s)) % 20, s, 0.9)),
            "DRIFT_ALERT_RATE",
            ALERT_RATE,
        ),
    ],
    ids=["values", "missing", "no longer missing", "0/1", "score", "alert rate"],
)
def test_shift_is_detected_and_named_in_the_reason(
    reference: DriftReference, shift, code: str, name: str
) -> None:
    x_NF, score_N = shift(*events(np.random.default_rng(4), 20_000))
    verdict = assess_drift(reference, counts(reference, x_NF.astype(np.float32), score_N))
    first = verdict.reasons[0]
    assert (first["code"], first["name"]) == (code, name)
    assert abs(first["value"] - first["usual"]) > 0.02
    assert f"{first['value']:.1%}" in first["sentence"]


def test_detected_frauds_drift_only_the_alert_rate(reference: DriftReference) -> None:
    rng = np.random.default_rng(9)
    x_NF, score_N = events(rng, 2_000)
    x_NF[:600], score_N[:600] = [900, 1, 1], 0.95
    verdict = assess_drift(reference, counts(reference, x_NF, score_N))
    assert verdict.drifted == {ALERT_RATE}
    score_N[:600] = 0.01
    assert "amount" in assess_drift(reference, counts(reference, x_NF, score_N)).drifted
