"""Alert thresholds by a daily budget, and what alerts find.

One alert is a user on a day, whatever the number of that user's flagged events.

Shape suffix: M events.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.fraud.datasets.event_dataset import EventDataset
from models.fraud.thresholds import threshold_by_budget


def threshold_per_10000_users(dataset: EventDataset, score_M: np.ndarray, budget: float) -> float:
    """Returns the lowest score with at most `budget` alerts per 10,000 users and mean day."""
    # One period of all days: the budget holds for the mean day, not for each day.
    return threshold_by_budget(
        score_M, dataset.day_M, dataset.user_M, 1, budget * dataset.user_days / 10_000
    )


def alert_metrics(dataset: EventDataset, alert_M: np.ndarray) -> dict[str, Any]:
    """Returns alert and fraud rates per 10,000 user-days, and recall by kind of case.

    A case is alerted if one of its events is. `user_days_alerted` is the alerted share of the
    user-days of a kind: a ring has many users.
    """
    user_day_M = _user_days(dataset)

    def user_days_per_10_000(selected_M: np.ndarray) -> float:
        return round(len(np.unique(user_day_M[selected_M])) / dataset.user_days * 10_000, 2)

    kinds = {}
    for kind in sorted(set(dataset.case_kind_M) - {""}):
        is_kind_M = dataset.case_kind_M == kind
        kinds[kind] = {
            "cases": len(np.unique(dataset.case_M[is_kind_M])),
            "alerted": _share_alerted(dataset.case_M, is_kind_M, alert_M),
            "user_days_alerted": _share_alerted(user_day_M, is_kind_M, alert_M),
        }
    return {
        "alerts_per_10000": user_days_per_10_000(alert_M),
        "frauds_alerted_per_10000": user_days_per_10_000(alert_M & dataset.labelled.fraud_N),
        "frauds_per_10000": user_days_per_10_000(dataset.labelled.fraud_N),
        "kinds": kinds,
    }


def _user_days(dataset: EventDataset) -> np.ndarray:
    """Returns (M,) a number for each pair of user and day."""
    pairs = np.column_stack([dataset.user_M, dataset.day_M])
    return np.unique(pairs, axis=0, return_inverse=True)[1].ravel()


def _share_alerted(key_M: np.ndarray, is_kind_M: np.ndarray, alert_M: np.ndarray) -> float:
    """Returns the share of the kind's keys that have an alert."""
    keys_alerted, keys = np.unique(key_M[is_kind_M & alert_M]), np.unique(key_M[is_kind_M])
    return round(len(keys_alerted) / len(keys), 4)
