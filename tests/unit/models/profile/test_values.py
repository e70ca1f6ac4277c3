"""Value curves: they learn when users buy again, serving stores what training fits, and links."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from liveprofile.features.baselines import SUMS
from liveprofile.units import DAY_MS
from liveprofile.value_curves import VALUES
from models.profile.data.examples import PURCHASE, build_corpus
from models.profile.data.moments import Moments, inputs_at, outcomes, user_features_at
from models.profile.encoding import Vocabulary
from models.profile.evaluation.served import _memories
from models.profile.network import BehaviourTransformer, Shape
from models.profile.ranker.memory import MemoryReader
from models.profile.ranker.network import Ranker
from models.profile.training import fit_value_curves
from models.profile.training.fit_value_curves import fit_link
from models.profile.user_features import FEATURE_NAMES
from models.profile.values import HorizonLinks, PurchaseWindows, curve_inputs, score_curves
from tests.unit.models.profile.miniature import MINIATURE
from tests.unit.models.profile.synthetic_streams import START_MS, split_at, streams_of_rows

USERS, DAYS = 40, 150
RECIPE = dataclasses.replace(MINIATURE, curve_epochs=12, curve_batch_rows=128, seed=3)


@pytest.fixture(scope="module")
def corpus():
    """Half of the users buy each day, half each 20 days, for 3 or for 30."""
    noon_ms = START_MS + DAY_MS // 2
    rows = [
        (user, noon_ms + day * DAY_MS, PURCHASE, 3.0 if user % 2 else 30.0, 1 + user % 4)
        for user in range(USERS)
        for day in range(user // 2 % 20, DAYS)
        if user % 2 or day % 20 == user // 2 % 20
    ]
    streams = streams_of_rows(rows)
    streams = streams._replace(**sums_of(streams))
    return build_corpus(
        streams, Vocabulary(streams.items[1:], 2), Vocabulary(streams.categories[1:], 2)
    )


def sums_of(streams):
    """What the SQL adds: here totals without decay. Each window has one purchase."""
    first_W = np.searchsorted(streams.user_W, streams.user_W)
    position_W = np.arange(len(first_W)) - first_W
    added_WS = np.zeros((len(first_W), len(SUMS)))
    added_WS[:, [SUMS.index(name) for name in ("windows", "events", "purchases")]] = 1.0
    return {
        "added_WS": added_WS,
        "sums_WS": added_WS * (1 + position_W[:, None]),
        "last_purchase_ms_W": streams.time_ms_N[streams.first_W],
    }


def split_of(corpus):
    return split_at(corpus.streams, 110, 130, DAYS)


def model_of(corpus):
    torch.manual_seed(1)
    items, categories = len(corpus.streams.items) - 1, len(corpus.streams.categories) - 1
    model = BehaviourTransformer(Shape(items, 2, categories, 2, dim=16))
    model.ranker = Ranker(categories, items)
    return model


@pytest.fixture(scope="module")
def fitted(corpus):
    model = model_of(corpus)
    torch.set_num_threads(1)  # more would wait for each other on a busy machine
    return model, fit_value_curves.fit(model, corpus, split_of(corpus), RECIPE)


def last_windows(corpus, day):
    return Moments.at(corpus.streams, START_MS + day * DAY_MS).window_M


@pytest.mark.slow
def test_curve_says_when_a_user_buys_again(corpus, fitted):
    model, report = fitted
    assert report["horizons_days"] == [7, 30]  # 90 days are longer than the training data
    assert report["examples"]["7"] > report["examples"]["30"] > 100
    assert model.value_curves.links.spend_ratio.tolist()[0] > 1.5
    windows = last_windows(corpus, 120)
    ends_ms = corpus.streams.end_ms_W[windows]
    with torch.inference_mode():
        value_N3K = model.value_curves(
            torch.from_numpy(inputs_at(corpus, RECIPE, windows, ends_ms))
        )[:, 0].numpy()
    wait_days = outcomes(corpus.streams, Moments(windows, ends_ms), 7).days_M
    daily = wait_days <= 1
    assert 10 < daily.sum() < 30
    churn_NK, days_NK = value_N3K[:, 0], value_N3K[:, 2]
    assert churn_NK[daily, 0].max() < 0.1 < 0.7 < churn_NK[~daily, 0].min()
    assert np.abs(days_NK[:, 0] - wait_days).mean() < 0.7
    # Fifteen days after the last purchase, the others buy within the next seven days.
    at_14 = fit_value_curves.AFTER_DAYS.index(14)
    assert churn_NK[~daily, at_14].max() < 0.4


@pytest.mark.slow
def test_curve_reads_the_same_inputs_in_training_and_in_serving(corpus, fitted):
    model, _ = fitted
    streams, windows = corpus.streams, last_windows(corpus, 120)
    ends_ms = streams.end_ms_W[windows]
    features_NX = user_features_at(corpus, RECIPE, windows, ends_ms)
    reader = MemoryReader(["i"], ["c"])
    memory = reader.index(_memories(streams, windows)).windows()
    served = score_curves(
        model.value_curves, memory, (features_NX, features_NX), np.ones(len(windows))
    )
    with torch.inference_mode():
        trained = model.value_curves(
            torch.from_numpy(inputs_at(corpus, RECIPE, windows, ends_ms))
        ).numpy()
    for value, name in enumerate(VALUES):
        np.testing.assert_allclose(
            served["value_curves"].values_BHK[name], trained[:, :, value], atol=0.011
        )
    np.testing.assert_allclose(served["churn_after"], trained[:, 0, 0, 0], atol=1e-5)


@pytest.mark.slow
def test_short_data_gives_the_curve_of_the_model_s_horizon_alone(corpus):
    model = model_of(corpus)
    split = split_of(corpus)
    short = split._replace(train_until_ms=START_MS + 12 * DAY_MS)
    report = fit_value_curves.fit(model, corpus, short, RECIPE)
    assert report["horizons_days"] == [7] and model.value_curves.links is None
    before = model.value_curves
    without = split._replace(train_until_ms=START_MS + 5 * DAY_MS)
    assert fit_value_curves.fit(model, corpus, without, RECIPE) == {}
    assert model.value_curves is before


def linked(link, churn, spend, days):
    """Churn, spend and days of 90 days."""
    first_N3K = torch.tensor([churn, spend, days]).view(1, 3, 1)
    return link(first_N3K, torch.tensor([30.0, 7.0, 90.0]))[0, 0, :, 0].tolist()


def test_fit_finds_the_logistic_link_and_the_median_ratio():
    random = torch.Generator().manual_seed(1)
    churn_M = torch.rand(4_000, generator=random)
    truth_M = torch.sigmoid(-1.0 + 1.5 * churn_M.logit(1e-6))
    churned_M = (torch.rand(4_000, generator=random) < truth_M).float()
    spend_M = 10 + 90 * torch.rand(4_000, generator=random)
    label_M = spend_M * (2.0 + 2.0 * torch.rand(4_000, generator=random))
    link = HorizonLinks(2)
    first_M2 = torch.stack([churn_M, spend_M], 1)
    fit_link(link, 1, first_M2.numpy(), churned_M.numpy(), label_M.numpy())
    assert link.intercept.tolist() == pytest.approx([0.0, -1.0], abs=0.2)
    assert link.slope.tolist() == pytest.approx([1.0, 1.5], abs=0.2)
    assert link.spend_ratio.tolist() == pytest.approx([1.0, 3.0], abs=0.1)


@pytest.mark.parametrize("churned", [0.0, 1.0])
def test_labels_of_one_class_and_no_spend_give_finite_values(churned):
    link = HorizonLinks(1)
    fit_link(link, 0, np.zeros((50, 2)), np.full(50, churned), np.zeros(50))
    assert np.isfinite([linked(link, 0.0, 0.0, 3.0), linked(link, 1.0, 0.0, 30.0)]).all()


def test_days_between_the_horizons_follow_a_constant_hazard_and_churn_does_not_rise():
    link = HorizonLinks(1)
    link.intercept[0] = math.log(0.1 / 0.9)  # 0.1 where the first horizon's churn is one half
    churn, _, days = linked(link, 0.8, 5.0, 30.0)
    assert churn == pytest.approx(1 / (1 + 9 / 4))  # odds 4 over 9
    hazard = math.log(0.8 / churn) / 60
    assert days == pytest.approx(30 + math.log(0.8 / 0.5) / hazard, abs=1e-3)
    link.intercept[0] = math.log(0.9 / 0.1)
    churn, _, days = linked(link, 0.6, 5.0, 30.0)
    assert (churn, days) == (pytest.approx(0.6), 90.0)


def inputs(user_U, end_ms_UW):
    """Of users who bought in each of their windows, one day after the last."""
    windows = end_ms_UW.shape[1]
    user_P = np.repeat(np.arange(len(user_U)), windows)
    bought = PurchaseWindows(user_P, end_ms_UW[user_U].ravel(), np.ones(len(user_P)))
    from_U = np.arange(len(user_U)) * windows
    features_UF = np.zeros((len(user_U), len(FEATURE_NAMES)))
    at_ms_U = end_ms_UW[user_U, -1] + DAY_MS
    return curve_inputs(
        features_UF, bought, np.arange(len(user_U)), from_U, from_U + windows, at_ms_U
    )


def test_a_user_has_the_same_inputs_alone_and_in_any_batch():
    rng = np.random.default_rng(5)
    # Regular users, whose gaps hardly spread, beside users whose clocks jump by years.
    gap_ms_UW = rng.integers(1, 4, (200, 1)) * DAY_MS + rng.integers(0, 2, (200, 12))
    gap_ms_UW[::3] = rng.integers(1, 20 * 365 * DAY_MS, (len(gap_ms_UW[::3]), 12))
    end_ms_UW = 946_684_800_000 + np.cumsum(gap_ms_UW, axis=1)
    together_UX = inputs(np.arange(200), end_ms_UW)
    alone_UX = np.concatenate([inputs(np.array([user]), end_ms_UW) for user in range(200)])
    np.testing.assert_array_equal(together_UX, alone_UX)


def test_a_user_without_purchases_has_inputs():
    nobody = PurchaseWindows(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    zero, features = np.zeros(1, np.int64), np.zeros((1, len(FEATURE_NAMES)))
    assert np.isfinite(curve_inputs(features, nobody, zero, zero, zero, np.array([DAY_MS]))).all()
