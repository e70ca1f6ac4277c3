"""From which score on an event is an alert: by what errors cost, or by how many can be looked at.

To be chosen on scores of a validation part. An alert is an event with score >= threshold.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from liveprofile.errors import InputError

NEVER = 1.0  # a calibrated score lies below it


class Threshold(NamedTuple):
    score: float
    alerts: int  # of the part it was chosen on
    found: int  # frauds among them
    missed_amount: float  # of frauds that are no alert, money
    cost: float  # money


def by_cost(
    score_N: np.ndarray,
    fraud_N: np.ndarray,
    amount_N: np.ndarray,
    false_alarm_cost: float,
    missed_share: float = 1.0,
) -> Threshold:
    """The least cost: each false alarm costs `false_alarm_cost`, each missed fraud `missed_share`
    of its amount. Of equal costs that with the fewest alerts.

    Raises InputError for a negative cost or share, or no events.
    """
    if false_alarm_cost < 0 or missed_share < 0:
        raise InputError("false_alarm_cost and missed_share must not be negative")
    order, last = _steps(score_N)
    found, alerts = _sums(fraud_N[order], last), np.append(0, last + 1)
    lost = np.sum(amount_N[fraud_N]) - _sums(np.where(fraud_N, amount_N, 0.0)[order], last)
    cost = (alerts - found) * false_alarm_cost + lost * missed_share
    best = int(np.argmin(cost))
    score = NEVER if best == 0 else float(score_N[order[last[best - 1]]])
    return Threshold(
        score, int(alerts[best]), int(found[best]), float(lost[best]), float(cost[best])
    )


def by_budget(
    score_N: np.ndarray, day_N: np.ndarray, user_N: np.ndarray, days: int, alerts_per_day: float
) -> float:
    """The lowest threshold by which at most `alerts_per_day` users are flagged on a mean day.

    A user is one alert a day, however many of its events are flagged. Raises InputError for no
    events, no days or a budget of nothing.
    """
    if days < 1 or alerts_per_day <= 0:
        raise InputError(f"{alerts_per_day} alerts a day over {days} days: both must be above 0")
    order, _ = _steps(score_N)
    _, first = np.unique(np.column_stack([day_N, user_N])[order], axis=0, return_index=True)
    highest = -np.sort(-score_N[order[first]])  # of each user and day
    budget = int(days * alerts_per_day)
    if budget >= len(highest):
        return 0.0
    # The first that is too many; who has its score is too many too.
    allowed = highest[highest > highest[budget]]
    return float(allowed[-1]) if len(allowed) else NEVER


def _steps(score_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places from the highest score on, and of each different score the last in that order."""
    if not len(score_N):
        raise InputError("no scores to choose a threshold on")
    order = np.argsort(-score_N, kind="stable")
    ranked = score_N[order]
    return order, np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)


def _sums(value_N: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Sums up to each last place, and 0 in front."""
    return np.append(0.0, np.cumsum(value_N, dtype=np.float64)[last])
