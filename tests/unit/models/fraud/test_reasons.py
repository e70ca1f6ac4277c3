"""Reasons of a score: feature groups, occlusion of features and of earlier events."""

import numpy as np
import pytest

from liveprofile.features.entity import EVENT_FEATURES
from models.fraud.reasons import (
    EARLIER_EVENT,
    explain,
    feature_groups,
    shapley_values,
)
from tests.support.one_feature_model import one_feature_model
from tests.unit.models.fraud.conftest import TrainedModel, build_history

pytestmark = pytest.mark.slow


def test_each_feature_is_in_one_group_except_event_types() -> None:
    names = tuple(EVENT_FEATURES)
    grouped = [names[index] for group in feature_groups(names) for index in group.features]
    assert len(grouped) == len(set(grouped))
    assert {name for name in names if not name.startswith("is_")} == set(grouped)
    codes = {group.code for group in feature_groups(names)}
    assert len(codes) == len(feature_groups(names))


def test_first_reason_is_the_only_feature_that_the_model_uses(trained: TrainedModel) -> None:
    model = one_feature_model("user_purchases_7d", 3)
    x = model.matrix(trained.columns)
    flagged = np.flatnonzero(model.score(trained.columns) > 0.5)[:5]
    assert len(flagged)
    for row, reasons in zip(flagged, explain(model, trained.lists, x, flagged), strict=True):
        count = trained.columns["user_purchases_7d"][row]
        first = reasons[0]
        assert (first.code, first.value, first.usual) == ("BURST", count, 0.0)
        words = f"purchases in the last 7 days: {count:.0f}, usually 0"
        assert first.sentence == f"pace of this user: {words}"
        assert {reason.code for reason in reasons[1:]} <= {EARLIER_EVENT}
        values = shapley_values(model, x[row : row + 1])[0]
        assert np.flatnonzero(values).tolist() == [model.names.index("user_purchases_7d")]
        assert first.weight == pytest.approx(float(values.sum()))


def test_drop_of_an_earlier_event_equals_a_history_without_it(trained: TrainedModel) -> None:
    model, data = trained.model, trained.data
    x = model.matrix(trained.columns)
    for row in np.argsort(-model.log_odds(x))[:60]:
        reasons = explain(model, trained.lists, x, np.array([row]))[0]
        earlier = [reason for reason in reasons if reason.code == EARLIER_EVENT]
        if earlier:
            break
    reason = earlier[0]
    flagged = trained.test_rows[row]
    before = np.flatnonzero(data.card_N[:flagged] == data.card_N[flagged])
    removed = [event for event in before if data.amount_N[event] == reason.value][-1]
    kept = np.delete(np.arange(len(data.time_ms_N)), removed)
    without = type(data)(*(column_N[kept] for column_N in data))
    lists = build_history(without).rows(np.array([flagged - 1]))
    drop = model.log_odds(x[row : row + 1]) - model.log_odds(model.matrix(model.columns(lists)))
    assert reason.weight == pytest.approx(float(drop[0]), abs=1e-5)
    assert f"of {reason.value:,.2f}" in reason.sentence


def test_unknown_feature_is_no_reason() -> None:
    model = one_feature_model("coupon_users_1d", 3)
    x = np.zeros(len(model.names), np.float32)
    index = model.names.index("coupon_users_1d")
    x[index] = np.nan
    assert shapley_values(model, x[None])[0, index] == 0
    x[index] = 9.0
    assert shapley_values(model, x[None])[0, index] > 0
