"""The benchmark of aging models: its parts, its refit, and the test part that it does not read."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lab.user_model import aging
from liveprofile.errors import InputError
from liveprofile.units import DAY_MS
from models.profile.data.examples import PURCHASE
from models.profile.data.prepared import split_by_time
from models.profile.data.training_rows import Streams
from tests.unit.models.profile.miniature import MINIATURE
from tests.unit.models.profile.synthetic_streams import START_MS, make_streams

pytestmark = pytest.mark.slow

USERS, DAYS, NEW_RANGE_DAY, NEW_USERS_DAY = 40, 60, 30, 40
RECIPE = dataclasses.replace(
    MINIATURE,
    epochs=2,
    ranker_epochs=3,
    ranker_learning_rate=1e-2,
    validation_from="2017-02-20",
    test_from="2017-02-25",
)


def until_ms(day: int) -> int:
    return START_MS + day * DAY_MS


def shop() -> Streams:
    """All buy four of ten items, which are others from a day on; half of the users begin late."""
    random, rows = np.random.default_rng(7), []
    for user in range(USERS):
        for day in range(NEW_USERS_DAY if user % 2 else 0, DAYS, 2):
            first = 11 if day >= NEW_RANGE_DAY else 1
            items = first + random.permutation(10)[:4]
            rows += [(user, until_ms(day), PURCHASE, 1.0, item) for item in items]
    streams = make_streams(*(np.array(column) for column in zip(*rows, strict=True)))
    return streams._replace(window_vectors={})


@pytest.fixture(scope="module")
def streams() -> Streams:
    return shop()


@pytest.fixture(scope="module")
def report(streams: Streams) -> dict:
    split = aging.earlier_split(RECIPE, streams.end_ms_W, until_ms(30), until_ms(42), until_ms(54))
    return aging.aging(streams, RECIPE, "item", split, ("age", "unseen", "short"))


def test_refit_knows_the_items_that_came_after_the_training(report: dict) -> None:
    measured = report["age"]["measured"]
    difference, low, _ = measured["refit_over"]["model"]
    assert difference > low > 0
    assert set(measured["model_over"]) == {
        "own_counts",
        "own_counts_refreshed",
        "tifu_knn",
        "tifu_knn_refreshed",
        "boosted_ranker",
    }


def test_parts_have_the_windows_of_their_time(report: dict, streams: Streams) -> None:
    first_W = np.searchsorted(streams.user_W, streams.user_W)
    has_past_W = np.arange(len(first_W)) > first_W
    end_ms_W = streams.end_ms_W
    is_measured_W = has_past_W & (end_ms_W > until_ms(42)) & (end_ms_W <= until_ms(54))
    is_validation_W = has_past_W & (end_ms_W > until_ms(30)) & (end_ms_W <= until_ms(42))
    age = report["age"]
    assert age["measured"]["windows"] == is_measured_W.sum()
    assert sum(month["windows"] for month in age["months"]) == is_measured_W.sum()
    assert age["validation"]["windows"] == is_validation_W.sum()
    # What knows validation is not measured by it.
    assert set(age["validation"]["ndcg_at_10"]) == {"model", *aging.BASELINES}
    short = report["short"]
    assert sum(short[name]["windows"] for name in aging.HISTORIES) == is_measured_W.sum()
    new = short["new since the training"]["users"], short["known to the training"]["users"]
    assert new == (USERS // 2, USERS // 2)


def test_each_user_is_ranked_by_a_model_with_and_one_without_it(report: dict) -> None:
    unseen = report["unseen"]
    assert unseen["users"] == USERS // 2  # those who have a part in the training
    assert set(unseen["seen_over"]) == {"unseen", *aging.BASELINES}
    difference = unseen["ndcg_at_10"]["seen"] - unseen["ndcg_at_10"]["unseen"]
    assert unseen["seen_over"]["unseen"][0] == pytest.approx(difference, abs=2e-4)


def test_days_in_the_test_part_are_refused(streams: Streams) -> None:
    test_from_ms = split_by_time(RECIPE, streams.end_ms_W).validation_until_ms
    with pytest.raises(InputError, match="the test part of recipe miniature begins on 2017-02-25"):
        aging.earlier_split(RECIPE, streams.end_ms_W, None, None, test_from_ms + 1)
    split = aging.earlier_split(
        RECIPE, streams.end_ms_W, test_from_ms - 30 * DAY_MS, test_from_ms - 9 * DAY_MS, None
    )
    assert streams.end_ms_W[split.test].max() <= test_from_ms
    with pytest.raises(InputError, match="the rows have no window before or between"):
        aging.earlier_split(RECIPE, streams.end_ms_W, 0, None, None)
