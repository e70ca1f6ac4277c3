"""Values between, before and past the knots of stored curves."""

import math

import numpy as np
import pytest

from liveprofile.units import DAY_MS, HOUR_MS
from liveprofile.value_curves import KEY, VALUES, ValueCurves, reading_time_ms, values_at
from tests.support.rows.value_curves import curve_document

END_MS = 1_500_000_000_000 - 1_500_000_000_000 % HOUR_MS
STORED = {"churn": 0.5, "expected_spend": 20.0}


def churn_at(days: float) -> float:
    return values_at(curve_document(), STORED, END_MS, END_MS + round(days * DAY_MS))["churn"]


def test_value_between_knots_is_linear_in_the_logarithm_of_the_days() -> None:
    share = (math.log1p(3) - math.log1p(1)) / (math.log1p(7) - math.log1p(1))
    assert churn_at(3) == pytest.approx(0.2 + share * 0.6, abs=1e-6)
    assert churn_at(math.expm1(math.log(2) / 2)) == pytest.approx(0.15, abs=1e-6)


def test_value_before_the_window_or_past_the_last_knot_is_that_of_the_nearest_knot() -> None:
    assert (churn_at(-3), churn_at(400), churn_at(1e6)) == (0.1, 0.8, 0.8)


def test_row_without_a_curve_keeps_its_stored_values() -> None:
    for document in ({}, {KEY: None}):
        found = values_at(document, STORED, END_MS, END_MS + 90 * DAY_MS)
        assert found == STORED | {"purchase_in_days": None}


def test_columns_equal_single_rows_whatever_the_number_of_knots() -> None:
    short = {KEY: {"after_days": [0.0, 30.0]} | {name: [[1.0, 3.0]] for name in VALUES}}
    one = {KEY: {"after_days": [0.0]} | {name: [[9.0]] for name in VALUES}}
    documents = [curve_document(), {}, short, one]
    for days in (0.0, 0.5, 3.0, 30.0, 99.0):
        found = ValueCurves.of(documents).at(np.full(4, days))
        for name in VALUES:
            expected = [
                values_at(each, {}, END_MS, END_MS + round(days * DAY_MS))[name]
                for each in documents
            ]
            np.testing.assert_allclose(
                found[name], np.array([math.nan if x is None else x for x in expected]), atol=1e-6
            )


def test_readers_within_an_hour_get_the_same_moment() -> None:
    times = {reading_time_ms(END_MS + HOUR_MS + later, END_MS) for later in (0, 1, HOUR_MS - 1)}
    assert times == {END_MS + HOUR_MS}
    assert reading_time_ms(END_MS + 5, END_MS + 3) == END_MS + 3
    assert reading_time_ms(END_MS - 9 * HOUR_MS, END_MS + 3) == END_MS + 3
