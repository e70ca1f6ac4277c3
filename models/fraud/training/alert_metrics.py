"""Alert thresholds by a daily budget, and what alerts find.

One alert is a user on a day, whatever the number of that user's flagged events.

Shape suffix: M events.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from liveprofile.errors import InputError
from models.fraud.datasets.event_dataset import EventDataset

NO_ALERT_SCORE = 1.0  # above every calibrated score


def threshold_by_cost(
    score_N: np.ndarray,
    fraud_N: np.ndarray,
    amount_N: np.ndarray,
    false_alarm_cost: float,
    missed_share: float = 1.0,
) -> float:
    """Returns the threshold of minimum cost; among equal costs, the one with fewest alerts.

    A false alarm costs `false_alarm_cost`, a missed fraud `missed_share` of its amount. Raises
    InputError for a negative cost or share, or no events.
    """
    if false_alarm_cost < 0 or missed_share < 0:
        raise InputError("false_alarm_cost and missed_share must not be negative")
    order, step_end = _ranked_steps(score_N)
    saved_N = np.where(fraud_N, amount_N * missed_share, -false_alarm_cost)[order]
    best = int(np.argmax(np.append(0.0, np.cumsum(saved_N, dtype=np.float64)[step_end])))
    return float(score_N[order[step_end[best - 1]]]) if best else NO_ALERT_SCORE


def threshold_by_budget(
    score_N: np.ndarray, day_N: np.ndarray, user_N: np.ndarray, days: int, alerts_per_day: float
) -> float:
    """Returns the lowest threshold that flags at most `alerts_per_day` users on a mean day.

    A user counts once a day, whatever the number of flagged events. Raises InputError without
    events or days, and for a budget that is not positive.
    """
    if days < 1 or alerts_per_day <= 0:
        raise InputError(f"{alerts_per_day} alerts a day over {days} days: both must be above 0")
    order, _ = _ranked_steps(score_N)
    _, first = np.unique(np.column_stack([day_N, user_N])[order], axis=0, return_index=True)
    highest = -np.sort(-score_N[order[first]])  # score of each pair of user and day
    budget = int(days * alerts_per_day)
    if budget >= len(highest):
        return 0.0
    # highest[budget] is the first score over budget, and so are all equal scores.
    allowed = highest[highest > highest[budget]]
    return float(allowed[-1]) if len(allowed) else NO_ALERT_SCORE


def _ranked_steps(score_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns indices by descending score, and the last position of each distinct score."""
    if not len(score_N):
        raise InputError("no scores to choose a threshold on")
    order = np.argsort(-score_N, kind="stable")
    ranked = score_N[order]
    return order, np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)


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
    pairs = np.column_stack([dataset.user_M, dataset.day_M])
    user_day_M = np.unique(pairs, axis=0, return_inverse=True)[1].ravel()

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


def _share_alerted(key_M: np.ndarray, is_kind_M: np.ndarray, alert_M: np.ndarray) -> float:
    """Returns the share of the kind's keys that have an alert."""
    keys_alerted, keys = np.unique(key_M[is_kind_M & alert_M]), np.unique(key_M[is_kind_M])
    return round(len(keys_alerted) / len(keys), 4)
