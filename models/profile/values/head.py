"""The value curves: churn, median spend and median days to the next purchase, at days after now.

A linear and a deep model of the inputs (Wide & Deep; Cheng et al. 2016, arXiv:1606.07792) give the
values at the knots. Between two knots they are linear in log(1 + days), as a reader of the stored
curve interpolates (liveprofile/value_curves.py), so what is trained is what is read.

Horizons that the network does not learn are linked to the first one (links.py).

Shape suffixes: N users at a time, X inputs, H horizons, of which G are learned and L linked, K
knots, V width, 3 values: churn, spend, days.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

HALF = 0.5
SMALLEST = 1e-6  # a probability nearer to 0 or 1 counts as this near


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


WIDTH, DROPOUT = 96, 0.1
MAX_DEVIATIONS = 5.0  # an input further away counts as this far


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
