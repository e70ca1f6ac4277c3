"""RFM features against a plain loop."""

import numpy as np
import pytest

from lab.baselines.values.rfm import COLUMNS, rfm_features
from lab.tests.value_data import views_and_purchases
from liveprofile.units import DAY_MS
from models.profile.data.examples import PURCHASE
from models.profile.data.moments import Moments
from tests.unit.models.profile.synthetic_streams import (
    START_MS,
    make_streams,
)


@pytest.mark.parametrize("days_later", [0, 2.3, 50])
def test_rfm_features_equal_a_plain_loop(days_later):
    streams = views_and_purchases()
    at_ms = streams.end_ms_W + round(days_later * DAY_MS)
    features = rfm_features(streams, Moments(np.arange(len(at_ms)), at_ms))
    assert features.names == list(COLUMNS)
    for window in range(len(streams.user_W)):
        user, end_day = streams.user_W[window], (at_ms[window] - 1) // DAY_MS
        first = streams.first_W[np.flatnonzero(streams.user_W == user)[0]]
        tokens = np.arange(first, streams.last_W[window])
        tokens = tokens[streams.type_N[tokens] == PURCHASE]
        values = dict(zip(features.names, features.values_WF[window], strict=True))
        if not len(tokens):
            assert set(values.values()) == {0.0}
            continue
        day, amount = streams.time_ms_N[tokens] // DAY_MS, streams.amount_N[tokens]
        days = np.unique(day)
        gaps = np.diff(days)
        expected = {
            "recency": end_day - days[-1],
            "frequency": len(days),
            "age": end_day - days[0],
            "monetary": amount.sum() / len(days),
            "gap_mean": gaps.mean() if len(gaps) else 0,
            "gap_std": gaps.std() if len(gaps) else 0,
            "gap_last": gaps[-1] if len(gaps) else 0,
            "window_amount": amount[tokens >= streams.first_W[window]].sum(),
        }
        for recent_days in (7, 30, 90):
            recent = day > end_day - recent_days
            expected[f"purchases_{recent_days}d"] = recent.sum()
            expected[f"spend_{recent_days}d"] = amount[recent].sum()
            expected[f"days_{recent_days}d"] = len(np.unique(day[recent]))
        assert values == pytest.approx(expected, abs=1e-6), window


def test_rfm_features_ignore_later_events():
    streams = views_and_purchases()
    kept = streams.time_ms_N < START_MS + 60 * DAY_MS
    user_N = np.repeat(streams.user_W, streams.last_W - streams.first_W)
    columns = (user_N, streams.time_ms_N, streams.type_N, streams.amount_N, streams.item_N)
    past = make_streams(*(column[kept] for column in columns), DAY_MS // 2)
    before = streams.end_ms_W <= START_MS + 60 * DAY_MS
    values = [
        rfm_features(each, Moments(np.arange(len(each.end_ms_W)), each.end_ms_W)).values_WF
        for each in (past, streams)
    ]
    np.testing.assert_allclose(values[0], values[1][before], atol=1e-6)
