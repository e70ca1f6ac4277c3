"""Value curves: links of longer horizons, and inputs that do not depend on the batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from liveprofile.units import DAY_MS
from models.profile.training.fit_value_curves import fit_link
from models.profile.user_features import FEATURE_NAMES
from models.profile.values import HorizonLinks, PurchaseWindows, curve_inputs

HORIZON_DAYS = torch.tensor([30.0, 7.0, 90.0])


def _linked(link: HorizonLinks, churn: float, spend: float, days: float) -> Tensor:
    """(3,) values of 90 days."""
    first_N3K = torch.tensor([churn, spend, days]).view(1, 3, 1)
    return link(first_N3K, HORIZON_DAYS)[0, 0, :, 0]


def _link(churn_at_half: float) -> HorizonLinks:
    """A link that gives this churn where the first horizon's is one half, and doubles spend."""
    link = HorizonLinks(1)
    link.intercept[0], link.spend_ratio[0] = math.log(churn_at_half / (1 - churn_at_half)), 2.0
    return link


def test_fit_finds_the_logistic_link_and_the_median_ratio() -> None:
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
def test_labels_of_one_class_and_no_spend_give_finite_values(churned: float) -> None:
    link = HorizonLinks(1)
    fit_link(link, 0, np.zeros((50, 2)), np.full(50, churned), np.zeros(50))
    assert _linked(link, 0.0, 0.0, 3.0).isfinite().all()
    assert _linked(link, 1.0, 0.0, 30.0).isfinite().all()


def test_days_between_the_horizons_follow_a_constant_hazard() -> None:
    link = _link(0.1)
    churn, _, days = _linked(link, 0.8, 5.0, 30.0).tolist()
    assert churn == pytest.approx(1 / (1 + 9 / 4))  # odds 4 over 9
    hazard = math.log(0.8 / churn) / 60
    assert days == pytest.approx(30 + math.log(0.8 / 0.5) / hazard, abs=1e-3)


def test_churn_is_not_above_that_of_the_shorter_horizon() -> None:
    churn, _, days = _linked(_link(0.9), 0.6, 5.0, 30.0).tolist()
    assert churn == pytest.approx(0.6)
    assert days == 90.0


USERS, WINDOWS = 200, 12


def _inputs(user_U: np.ndarray, end_ms_UW: np.ndarray) -> np.ndarray:
    """Of users who bought in each of their windows, one day after the last."""
    user_P = np.repeat(np.arange(len(user_U)), WINDOWS)
    bought = PurchaseWindows(user_P, end_ms_UW[user_U].ravel(), np.ones(len(user_P)))
    from_U = np.arange(len(user_U)) * WINDOWS
    features_UF = np.zeros((len(user_U), len(FEATURE_NAMES)))
    return curve_inputs(
        features_UF,
        bought,
        np.arange(len(user_U)),
        from_U,
        from_U + WINDOWS,
        end_ms_UW[user_U, -1] + DAY_MS,
    )


def test_a_user_has_the_same_inputs_alone_and_in_any_batch() -> None:
    rng = np.random.default_rng(5)
    # Regular users, whose gaps hardly spread, beside users whose clocks jump by years.
    gap_ms_UW = rng.integers(1, 4, (USERS, 1)) * DAY_MS + rng.integers(0, 2, (USERS, WINDOWS))
    gap_ms_UW[::3] = rng.integers(1, 20 * 365 * DAY_MS, (len(gap_ms_UW[::3]), WINDOWS))
    end_ms_UW = 946_684_800_000 + np.cumsum(gap_ms_UW, axis=1)
    together_UX = _inputs(np.arange(USERS), end_ms_UW)
    alone_UX = np.concatenate([_inputs(np.array([user]), end_ms_UW) for user in range(USERS)])
    np.testing.assert_array_equal(together_UX, alone_UX)


def test_a_user_without_purchases_has_inputs() -> None:
    nobody = PurchaseWindows(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    zero = np.zeros(1, np.int64)
    inputs_MX = curve_inputs(
        np.zeros((1, len(FEATURE_NAMES))), nobody, zero, zero, zero, np.array([DAY_MS])
    )
    assert np.isfinite(inputs_MX).all()
