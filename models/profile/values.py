"""Churn, spend and days to the next purchase as curves of the time after a window.

A network on the user features and the rhythm of purchases in the long history, of two hidden layers
and a linear part beside them (Wide & Deep; Cheng et al. 2016, arXiv:1606.07792), gives the values
at the knots. Between two knots they are linear in log(1 + days), as a reader of the stored curve
interpolates (liveprofile/value_curves.py), so what is trained is what is read. Horizons that the
network does not learn are linked to the first one.

Shape suffixes
    N users at a time   X inputs   H horizons, of which G are learned and L linked   K knots
    V width   3 values: churn, spend, days   M users, each at a time   P windows with a purchase
    B rows (one user and window each)   W windows of their histories
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveprofile.units import DAY_MS
from liveprofile.value_curves import VALUES
from models.profile.device import passes, to_device
from models.profile.ranker.memory import MemoryWindows
from models.profile.user_features import FEATURE_NAMES

HALF = 0.5
SMALLEST = 1e-6  # a probability nearer to 0 or 1 counts as this near
WIDTH, DROPOUT = 96, 0.1
MAX_DEVIATIONS = 5.0  # an input further away counts as this far
PASS_ROWS = 1_024
_DECIMALS = (4, 2, 2)  # of VALUES in a stored curve

LAGS = (1, 2, 3, 4, 5, 7, 10, 14, 20, 30, 39)  # of purchase windows before the last
SPANS_DAYS = (3, 7, 14, 30, 60, 90, 180)
GAPS_DAYS = (2, 4, 7, 10, 14, 21, 30, 45, 60, 90)
RHYTHM = (
    "idle_days",
    "span_days",
    "windows",
    "gap_mean",
    "gap_std",
    "last_gap",
    "gap_log_mean",
    "idle_over_gap",
    *(f"since_{lag}" for lag in LAGS),
    *(f"{kind}_{days}" for days in GAPS_DAYS for kind in ("gaps_over", "quiet")),
    *(f"{kind}_{days}" for days in SPANS_DAYS for kind in ("windows", "purchases")),
    "weekday_sin",
    "weekday_cos",
)
INPUTS = (*FEATURE_NAMES, *RHYTHM)


class HorizonLinks(nn.Module):
    """Links of L horizons to the first of the head's horizons, all longer than it."""

    def __init__(self, links: int):
        super().__init__()
        self.register_buffer("intercept", torch.zeros(links))
        self.register_buffer("slope", torch.ones(links))  # >= 0
        self.register_buffer("spend_ratio", torch.ones(links))

    def forward(self, first_N3K: Tensor, horizon_days: Tensor) -> Tensor:
        """(N, L, 3, K) from the values of the first horizon; horizon_days: of all, linked last."""
        churn_N1K, spend_N1K, days_N1K = first_N3K[:, None].unbind(2)
        first_days, days_L1 = horizon_days[0], horizon_days[-len(self.slope) :, None]
        logit_NLK = self.intercept[:, None] + self.slope[:, None] * churn_N1K.logit(SMALLEST)
        churn_NLK = logit_NLK.sigmoid().minimum(churn_N1K)
        # Between the horizons log(share without a purchase) falls in a straight line.
        fall_NLK = (churn_N1K / churn_NLK).log().clamp(min=1e-9)
        share_NLK = ((churn_N1K / HALF).log() / fall_NLK).clamp(0.0, 1.0)
        later_NLK = first_days + (days_L1 - first_days) * share_NLK
        days_NLK = torch.where(churn_N1K < HALF, days_N1K, later_NLK)
        return torch.stack([churn_NLK, self.spend_ratio[:, None] * spend_N1K, days_NLK], 2)


class ValueCurveHead(nn.Module):
    """Stays in float32 when the trunk is in bfloat16. The first horizon is the model's."""

    def __init__(self, inputs: int, learned: int, knots: int, links: int = 0):
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("std", torch.ones(inputs))
        self.register_buffer("after_days", torch.zeros(knots))
        self.register_buffer("horizon_days", torch.ones(learned + links))  # the learned ones first
        # What raw values are multiples of.
        self.register_buffer("spend_unit", torch.ones(learned))
        self.register_buffer("days_unit", torch.ones(learned))
        self.first, self.second = nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, learned * 3 * knots)
        self.linear = nn.Linear(inputs, learned * 3 * knots, bias=False)
        self.links = HorizonLinks(links) if links else None
        for weight in (self.out.weight, self.out.bias, self.linear.weight):
            nn.init.zeros_(weight)

    def has_valid_days(self) -> bool:
        """Whether knots ascend from 0 and horizons have at least a day: both end up in rows."""
        after_days_K, horizon_days_H = self.after_days, self.horizon_days
        return bool(
            after_days_K.isfinite().all()
            and horizon_days_H.isfinite().all()
            and after_days_K[0] == 0
            and (after_days_K.diff() > 0).all()
            and (horizon_days_H >= 1).all()
        )

    def forward(self, input_NX: Tensor) -> Tensor:
        """(N, H, 3, K): probability of no purchase, currency >= 0, days from 0 to the horizon."""
        value_NG3K = self.learned(input_NX)
        if self.links is None:
            return value_NG3K
        return torch.cat([value_NG3K, self.links(value_NG3K[:, 0], self.horizon_days)], 1)

    def learned(self, input_NX: Tensor) -> Tensor:
        """(N, G, 3, K): the values of the horizons without the linked ones."""
        scaled_NX = (input_NX - self.mean) / self.std
        scaled_NX = scaled_NX.clamp(-MAX_DEVIATIONS, MAX_DEVIATIONS)
        hidden_NV = F.dropout(torch.relu(self.first(scaled_NX)), DROPOUT, self.training)
        hidden_NV = F.dropout(torch.relu(self.second(hidden_NV)), DROPOUT, self.training)
        raw_NO = self.out(hidden_NV) + self.linear(scaled_NX)
        raw_NG3K = raw_NO.view(len(raw_NO), len(self.spend_unit), 3, len(self.after_days))
        churn, spend, days = raw_NG3K.unbind(2)
        spend = self.spend_unit[:, None] * F.softplus(spend)
        longest_days_G = self.horizon_days[: len(self.days_unit)]
        days = (self.days_unit[:, None] * F.softplus(days)).minimum(longest_days_G[:, None])
        return torch.stack([churn.sigmoid(), spend, days], 2)


def knot_weights(elapsed_days_N: np.ndarray, after_days_K: Sequence[float]) -> np.ndarray:
    """(N, K) float32 weights of the knots at so many days; constant past the last knot."""
    knots = np.arange(len(after_days_K))
    position_N = np.interp(np.log1p(elapsed_days_N), np.log1p(after_days_K), knots)
    return np.maximum(1 - np.abs(position_N[:, None] - knots), 0).astype(np.float32)


class PurchaseWindows(NamedTuple):
    """P windows with a purchase, ordered by user and time."""

    user_P: np.ndarray  # any ascending number
    end_ms_P: np.ndarray
    purchases_P: np.ndarray

    @classmethod
    def of(
        cls, user_W: np.ndarray, end_ms_W: np.ndarray, purchases_W: np.ndarray
    ) -> tuple[PurchaseWindows, np.ndarray]:
        """Also returns (W + 1,) how many purchase windows come before each window."""
        index_P = np.flatnonzero(purchases_W)
        before_W = np.concatenate([[0], np.cumsum(purchases_W > 0)])
        return cls(user_W[index_P], end_ms_W[index_P], purchases_W[index_P]), before_W


def curve_inputs(
    user_features_MF: np.ndarray,
    bought: PurchaseWindows,
    user_M: np.ndarray,
    from_M: np.ndarray,
    to_M: np.ndarray,
    at_ms_M: np.ndarray,
) -> np.ndarray:
    """(M, X) float32, in the order of INPUTS.

    user_features_MF: at the same times. user_M: as in `bought`; the purchase windows of the memory
    of user m are those from from_M[m] to to_M[m] - 1, and end at at_ms_M[m] or earlier.
    """
    weekday_M = 2 * np.pi * (at_ms_M // DAY_MS % 7) / 7
    purchases_P = np.concatenate([[0.0], np.cumsum(bought.purchases_P)])
    columns = _gaps(bought, at_ms_M, from_M, to_M)
    for since_M in span_starts(bought, user_M, at_ms_M, from_M, to_M):
        columns += [log_1p(to_M - since_M), log_1p(purchases_P[to_M] - purchases_P[since_M])]
    columns += [np.sin(weekday_M), np.cos(weekday_M)]
    return np.column_stack([user_features_MF, *columns]).astype(np.float32)


def _gaps(
    bought: PurchaseWindows, at_ms_M: np.ndarray, from_M: np.ndarray, to_M: np.ndarray
) -> list[np.ndarray]:
    """Days since the last purchase windows, and how the gaps between them are distributed."""
    known_M = to_M > from_M
    # A place past the end stands for users without a purchase.
    end_ms_P = np.append(bought.end_ms_P, 0)
    last_M, first_M = np.where(known_M, to_M - 1, 0), np.where(known_M, from_M, 0)
    idle_M = np.where(known_M, (at_ms_M - end_ms_P[last_M]) / DAY_MS, 0.0)
    span_M = np.where(known_M, (at_ms_M - end_ms_P[first_M]) / DAY_MS, 0.0)
    gap_P = np.append(np.diff(bought.end_ms_P, prepend=0) / DAY_MS, 0.0)
    gap_P[:-1][np.diff(bought.user_P, prepend=-1) != 0] = 0.0
    gaps_M, repeated_M = np.maximum(last_M - first_M, 1), last_M > first_M

    def total(value_P: np.ndarray) -> np.ndarray:
        """Sum over the gaps inside the memory.

        Each memory is added up alone: differences of running sums round by what else is in a batch.
        """
        edge_2M = np.column_stack([first_M + 1, last_M + 1]).ravel()
        return np.where(repeated_M, np.add.reduceat(np.append(value_P, 0.0), edge_2M)[::2], 0.0)

    mean_M = total(gap_P) / gaps_M
    # Rounded, since the square root of a rounding error of the sums would be large.
    spread_M = np.sqrt(np.maximum(np.round(total(gap_P**2) / gaps_M - mean_M**2, 6), 0.0))
    columns = [
        log_1p(idle_M),
        log_1p(span_M),
        (to_M - from_M).astype(float),
        log_1p(mean_M),
        log_1p(spread_M),
        np.where(repeated_M, log_1p(gap_P[last_M]), 0.0),
        total(log_1p(gap_P)) / gaps_M,
        np.where(repeated_M, log_1p(np.minimum(idle_M / np.maximum(mean_M, 0.5), 50.0)), 0.0),
    ]
    for lag in LAGS:
        since_ms_M = at_ms_M - end_ms_P[np.maximum(last_M - lag, first_M)]
        columns.append(np.where(known_M, log_1p(since_ms_M / DAY_MS), 0.0))
    for days in GAPS_DAYS:
        columns.append(log_1p(total(gap_P > days)))
        # The share of the time in which the next `days` days had no purchase.
        columns.append(total(np.maximum(gap_P - days, 0.0)) / np.maximum(span_M, 1.0))
    return columns


def span_starts(
    bought: PurchaseWindows,
    user_M: np.ndarray,
    at_ms_M: np.ndarray,
    from_M: np.ndarray,
    to_M: np.ndarray,
) -> list[np.ndarray]:
    """(M,) for each of SPANS_DAYS: the first purchase window of the last days, or to_M."""
    longest_ms = max(SPANS_DAYS) * DAY_MS
    times_ms = np.concatenate([bought.end_ms_P, at_ms_M])
    if not len(times_ms):
        return [to_M] * len(SPANS_DAYS)
    start_ms = int(times_ms.min()) - longest_ms
    key_ms = int(times_ms.max()) - start_ms + 1
    key_P = bought.user_P * key_ms + bought.end_ms_P - start_ms
    key_M = user_M * key_ms + at_ms_M - start_ms
    starts = []
    for days in SPANS_DAYS:
        since_M = np.searchsorted(key_P, key_M - days * DAY_MS, side="right")
        starts.append(np.minimum(np.maximum(since_M, from_M), to_M))
    return starts


def log_1p(value: np.ndarray) -> np.ndarray:
    """log(1 + value), of 0 for a negative value."""
    return np.log1p(np.maximum(value, 0.0))


class CurvesAfter(NamedTuple):
    """The curves of B rows after their windows, as they are stored: rounded."""

    after_days: list[float]  # K
    horizon_days: list[int]  # H
    values_BHK: dict[str, np.ndarray]  # float32 for each of VALUES


def score_curves(
    head: ValueCurveHead,
    history: MemoryWindows,
    user_features_BX: tuple[np.ndarray, np.ndarray],
    window_days_B: np.ndarray,
) -> dict[str, Any]:
    """Churn, spend and curves of B rows: those fields of models.profile.inference.Scores.

    history: the window of each row is its last. user_features_BX: at the windows' starts, and at
    their ends. The values before the windows are those at their ends, without the windows.
    """
    row_B, end_B = np.arange(len(history.sizes_B)), np.cumsum(history.sizes_B)
    bought, before_W = PurchaseWindows.of(
        np.repeat(row_B, history.sizes_B), history.end_ms_V, history.purchases_V
    )
    end_ms_B = history.end_ms_V[end_B - 1]
    start_ms_B = end_ms_B - np.round(window_days_B * DAY_MS).astype(np.int64)
    # Before the windows, at their starts, then after them, at their ends.
    input_2BX = curve_inputs(
        np.concatenate(user_features_BX),
        bought,
        np.tile(row_B, 2),
        np.tile(before_W[end_B - history.sizes_B], 2),
        np.concatenate([before_W[end_B - 1], before_W[end_B]]),
        np.concatenate([start_ms_B, end_ms_B]),
    )
    after_days_K = head.after_days.cpu().numpy()
    weight_BK = knot_weights(window_days_B, after_days_K)
    with torch.inference_mode():
        value_2BH3K = np.concatenate(
            [
                head(to_device(input_2BX[part], head.mean.device)).cpu().numpy()
                for part in passes(len(input_2BX), PASS_ROWS)
            ]
        )
        horizon_days = [int(days) for days in head.horizon_days.tolist()]
    before_BH3K, after_BH3K = np.split(value_2BH3K, 2)
    before_B3 = np.einsum("bvk,bk->bv", before_BH3K[:, 0], weight_BK)
    rounded = {
        name: np.ascontiguousarray(np.round(after_BH3K[:, :, value], decimals))
        for value, (name, decimals) in enumerate(zip(VALUES, _DECIMALS, strict=True))
    }
    return {
        "churn_before": before_B3[:, 0],
        "churn_after": after_BH3K[:, 0, 0, 0],
        "spend_before": before_B3[:, 1],
        "spend_after": after_BH3K[:, 0, 1, 0],
        "value_curves": CurvesAfter(after_days_K.tolist(), horizon_days, rounded),
    }
