"""Inputs of the value curves do not depend on which other users a batch holds."""

from __future__ import annotations

import numpy as np

from liveprofile.units import DAY_MS
from models.profile.user_features import FEATURE_NAMES
from models.profile.values.inputs import PurchaseWindows, curve_inputs

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
