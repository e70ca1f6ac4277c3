"""The comparison with the reference: PSI, mean shift, alert rate."""

from pathlib import Path

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
    shift_bound,
)
from liveprofile.drift.reference import (
    ALERT_RATE,
    MAX_EVENTS_PER_USER_HOUR,
    REFERENCE_FILE,
    SCORE,
    DriftReference,
    HourlyHistograms,
)
from liveprofile.errors import InputError
from liveprofile.units import HOUR_MS
from models.fraud.training import drift_reference
from tests.support.rows.drift_data import (
    ALERT_SCORE,
    NAMES,
    START_MS,
    counts,
    events,
    make_reference,
    series,
)


@pytest.fixture(scope="module")
def reference() -> DriftReference:
    return make_reference()


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


def test_saved_reference_is_loaded_and_unknown_format_rejected(
    reference: DriftReference, tmp_path: Path
) -> None:
    assert DriftReference.load(tmp_path) is None
    reference.save(tmp_path)
    again = DriftReference.load(tmp_path)
    assert (again, again.version) == (reference, reference.version)
    text = (tmp_path / REFERENCE_FILE).read_text()
    (tmp_path / REFERENCE_FILE).write_text(text.replace('"format": 3', '"format": 9'))
    with pytest.raises(InputError, match="format 9, this version reads 3"):
        DriftReference.load(tmp_path)


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
    histograms, by_hour = HourlyHistograms(made, NAMES), {}
    for rows in (range(10), range(10, 250), range(250, 400)):  # the cap holds across batches
        histograms.add(x_NF, score_N, START_MS + hour_N * HOUR_MS, user_N, rows)
        by_hour |= histograms.take_changed()
    found = sum(by_hour.values())
    assert made.events == 4 * 7 * MAX_EVENTS_PER_USER_HOUR
    for expected, counts_W in zip(made.series, found, strict=True):
        assert tuple(counts_W[: len(expected.counts)]) == expected.counts
