"""Alert thresholds by the cost of errors, or by the number of alerts that analysts can handle.

Choose thresholds on scores of a validation split. An event with score >= threshold is an alert.

Shape suffix: N events.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from liveprofile.errors import InputError

NO_ALERT_SCORE = 1.0  # above every calibrated score


class Threshold(NamedTuple):
    score: float
    alerts: int  # among the events it was chosen on
    frauds_found: int  # frauds among the alerts
    missed_amount: float  # money, of frauds that are no alerts
    cost: float  # money


def threshold_by_cost(
    score_N: np.ndarray,
    fraud_N: np.ndarray,
    amount_N: np.ndarray,
    false_alarm_cost: float,
    missed_share: float = 1.0,
) -> Threshold:
    """Returns the threshold of minimum cost; among equal costs, the one with fewest alerts.

    A false alarm costs `false_alarm_cost`, a missed fraud `missed_share` of its amount. Raises
    InputError for a negative cost or share, or no events.
    """
    if false_alarm_cost < 0 or missed_share < 0:
        raise InputError("false_alarm_cost and missed_share must not be negative")
    order, step_end = _ranked_steps(score_N)
    frauds_found, alerts = _sums_at(fraud_N[order], step_end), np.append(0, step_end + 1)
    missed_amount = np.sum(amount_N[fraud_N]) - _sums_at(
        np.where(fraud_N, amount_N, 0.0)[order], step_end
    )
    cost = (alerts - frauds_found) * false_alarm_cost + missed_amount * missed_share
    best_step = int(np.argmin(cost))
    score = NO_ALERT_SCORE if best_step == 0 else float(score_N[order[step_end[best_step - 1]]])
    return Threshold(
        score,
        int(alerts[best_step]),
        int(frauds_found[best_step]),
        float(missed_amount[best_step]),
        float(cost[best_step]),
    )


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


def _sums_at(value_N: np.ndarray, step_end: np.ndarray) -> np.ndarray:
    """Returns 0 and the sums up to each of these positions."""
    return np.append(0.0, np.cumsum(value_N, dtype=np.float64)[step_end])
