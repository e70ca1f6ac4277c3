"""Time to the next purchase by the user's own mean gap between purchase days.

Shape suffix: W moments.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from lab.baselines.values.data import (
    BaselineData,
    BaselinePredictions,
    Predict,
    absolute_days_error,
    choose_settings,
)

GRID = [
    {"count_from": start, "scale": scale}
    for start, scale in product(("the moment", "the last purchase"), (0.5, 0.7, 1.0, 1.4))
]


def predictions(data: BaselineData, on_fit: Callable[[int, int], None]) -> BaselinePredictions:
    """A scaled mean gap from the moment or, if that is later, from the last purchase.

    Users with fewer than two purchase days get the median time of the training moments.
    """
    gap_W, recency_W = data.rfm.column("gap_mean"), data.rfm.column("recency")
    usual = float(np.median(data.train.days_W))

    def fit(settings: dict[str, Any]) -> Predict:
        days_W = gap_W * settings["scale"]
        if settings["count_from"] == "the last purchase":
            days_W = np.maximum(days_W - recency_W, 0.0)
        days_W = np.where(gap_W > 0, np.minimum(days_W, data.horizon_days), usual)
        return lambda index_W: days_W[index_W]

    settings, days = choose_settings(data, GRID, fit, absolute_days_error, on_fit)
    return BaselinePredictions.from_models(data, {"days": settings}, days=days)
