"""Runs the value curves on a batch of windows.

Shape suffixes: B rows (one user and window each), V windows of their memories, X inputs, H
horizons, K knots.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from liveprofile.units import DAY_MS
from liveprofile.value_curves import VALUES
from models.profile.device import passes, to_device
from models.profile.ranker.memory import MemoryWindows
from models.profile.values.head import ValueCurveHead, knot_weights
from models.profile.values.inputs import PurchaseWindows, curve_inputs

PASS_ROWS = 1_024
_DECIMALS = (4, 2, 2)  # of VALUES in a stored curve


class CurvesAfter(NamedTuple):
    """The curves of B rows after their windows, as they are stored: rounded."""

    after_days: list[float]  # K
    horizon_days: list[int]  # H
    values_BHK: dict[str, np.ndarray]  # float32 for each of VALUES


class CurveScores(NamedTuple):
    """What curves give for B rows. Fields as in models.profile.inference.Scores."""

    churn_before: np.ndarray  # (B,) at the windows' ends, without the windows
    churn_after: np.ndarray
    spend_before: np.ndarray
    spend_after: np.ndarray
    value_curves: CurvesAfter


def score_curves(
    head: ValueCurveHead,
    memory: MemoryWindows,
    user_features_BX: tuple[np.ndarray, np.ndarray],
    window_days_B: np.ndarray,
) -> CurveScores:
    """Scores B rows. memory: the window of each row is the last of its memory.

    user_features_BX: at the windows' starts, and at their ends.
    """
    input_2BX = _inputs(memory, user_features_BX, window_days_B)
    device = head.mean.device

    with torch.inference_mode():
        value_2BH3K = np.concatenate(
            [
                head(to_device(input_2BX[part], device)).cpu().numpy()
                for part in passes(len(input_2BX), PASS_ROWS)
            ]
        )
        after_days_K = head.after_days.cpu().numpy()
        horizon_days = [int(days) for days in head.horizon_days.tolist()]
    before_BH3K, after_BH3K = np.split(value_2BH3K, 2)
    weight_BK = knot_weights(window_days_B, after_days_K)
    before_B3 = np.einsum("bvk,bk->bv", before_BH3K[:, 0], weight_BK)
    rounded = {
        name: np.ascontiguousarray(np.round(after_BH3K[:, :, value], decimals))
        for value, (name, decimals) in enumerate(zip(VALUES, _DECIMALS, strict=True))
    }
    return CurveScores(
        churn_before=before_B3[:, 0],
        churn_after=after_BH3K[:, 0, 0, 0],
        spend_before=before_B3[:, 1],
        spend_after=after_BH3K[:, 0, 1, 0],
        value_curves=CurvesAfter(after_days_K.tolist(), horizon_days, rounded),
    )


def _inputs(
    memory: MemoryWindows,
    user_features_BX: tuple[np.ndarray, np.ndarray],
    window_days_B: np.ndarray,
) -> np.ndarray:
    """(2B, X): before the windows, at their starts, then after them, at their ends."""
    rows = len(memory.sizes_B)
    row_B, end_B = np.arange(rows), np.cumsum(memory.sizes_B)
    row_V = np.repeat(row_B, memory.sizes_B)
    bought, before_V = PurchaseWindows.of(row_V, memory.end_ms_V, memory.purchases_V)
    end_ms_B = memory.end_ms_V[end_B - 1]
    start_ms_B = end_ms_B - np.round(window_days_B * DAY_MS).astype(np.int64)
    from_B = before_V[end_B - memory.sizes_B]
    return curve_inputs(
        np.concatenate(user_features_BX),
        bought,
        np.tile(row_B, 2),
        np.tile(from_B, 2),
        np.concatenate([before_V[end_B - 1], before_V[end_B]]),
        np.concatenate([start_ms_B, end_ms_B]),
    )
