"""Values of longer horizons, computed from those of the model's horizon.

A horizon of three months has examples only up to three months before the labels end, so a network
that learns it sees users with short histories. A link has three numbers instead:

- Churn: logistic in the logit of the model's churn (Platt scaling; Platt 1999), and not above it.
- Spend: the median spend of the model's horizon times a ratio.
- Days: the median of a survival curve with a constant hazard between the two horizons.

models/profile/training/fit_links.py fits them.

Shape suffixes: N users at a time, L linked horizons, K knots.
"""

from __future__ import annotations

import torch
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
