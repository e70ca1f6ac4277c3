"""The choice of the features' time spans."""

from __future__ import annotations

import numpy as np
import pytest

from lab.card_transactions.span_sets import SPAN_SETS, choose_spans, names_within
from lab.simulated.train import SIMULATED_FEATURES
from liveprofile.features.entity.past_events import SPANS_MS
from models.fraud.datasets.event_dataset import LabelledFeatures
from models.fraud.training.fit import FEATURES

SETTING = {"max_depth": 2, "rounds": 20, "eta": 0.3}
SPAN_NAMES = ["amount", "user_events_1d", "user_events_6h", "user_events_90d"]


def spans_split(decisive: int, seed: int) -> LabelledFeatures:
    """Events whose label is the sign of one column."""
    x_NF = np.random.default_rng(seed).standard_normal((2_000, len(SPAN_NAMES)))
    return LabelledFeatures(x_NF.astype(np.float32), x_NF[:, decisive] > 1)


@pytest.mark.parametrize("decisive", ["user_events_6h", "user_events_90d"])
def test_set_with_the_decisive_span_is_chosen(decisive: str) -> None:
    column = SPAN_NAMES.index(decisive)
    train, validation = spans_split(column, 0), spans_split(column, 1)
    chosen = choose_spans(train, 1.0, validation, SPAN_NAMES, SETTING)
    assert decisive in chosen.names
    assert chosen.names == names_within(SPAN_NAMES, SPAN_SETS[chosen.report["chosen"]])
    kept = [SPAN_NAMES.index(name) for name in chosen.names]
    assert np.array_equal(chosen.train.x_NF, train.x_NF[:, kept])
    assert np.array_equal(chosen.validation.x_NF, validation.x_NF[:, kept])
    assert set(chosen.report["average_precision"]) == set(SPAN_SETS)


def test_sets_are_parts_of_the_ladder_and_the_largest_has_every_feature() -> None:
    for spans in SPAN_SETS.values():
        assert set(spans) <= set(SPANS_MS)
    assert names_within(FEATURES, SPAN_SETS["full"]) == FEATURES
    coarse = names_within(FEATURES, SPAN_SETS["coarse"])
    assert "user_events_7d" in coarse and "amount" in coarse
    assert not any(name.endswith(("_6h", "_3d", "_90d")) for name in coarse)


def test_the_shipped_model_has_the_spans_that_validation_chose_once() -> None:
    assert names_within(FEATURES, SPAN_SETS["fine"]) == SIMULATED_FEATURES
