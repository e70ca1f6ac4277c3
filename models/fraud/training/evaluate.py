"""Alert thresholds, what alerts find, and what the rules find.

One alert is a user on a day, whatever the number of that user's flagged events. The suspicion of
rules, 0 to 1, is the severity of the most severe matching rule, then the ratio of its value to its
threshold. Rules on the model's score and rules that send no alerts are ignored.

Shape suffixes: N scores, M events.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from liveprofile.errors import InputError
from liveprofile.rules.flag_policy import RuleMatch, evaluate_rules
from liveprofile.rules.flags import Severity
from liveprofile.rules.rules import SCORE_FEATURE, SCORING_ONLY_FEATURES, Rule, RuleSet
from liveprofile.wire.tokens import EVENT_TYPES
from models.fraud.datasets.event_dataset import EventDataset, first_columns
from models.fraud.model import FraudModel, probability
from models.fraud.training.drift_reference import drift_reference_of_dataset
from models.fraud.training.fit import score_metrics

NO_ALERT_SCORE = 1.0  # above every calibrated score
BUDGETS = (10.0, 20.0, 30.0)  # alerts per 10,000 users and day
FALSE_ALARM_COST = 5.0  # in the currency of the amounts


def complete(
    model: FraudModel,
    validation: EventDataset,
    tests: dict[str, EventDataset],
    false_alarm_cost: float,
    out: Path | None,
) -> FraudModel:
    """Chooses thresholds and the drift reference on validation, and measures all datasets.

    Returns the model, written to the folder `out`, if given. The first columns of the datasets are
    the model's.
    """
    datasets = {
        name: each._replace(labelled=first_columns(each.labelled, len(model.names)))
        for name, each in {"validation": validation, **tests}.items()
    }
    validation = datasets["validation"]
    scores = {
        name: probability(model.log_odds(each.labelled.x_NF)) for name, each in datasets.items()
    }
    score_M = scores["validation"]
    thresholds = {
        f"budget_{budget:g}": threshold_per_10000_users(validation, score_M, budget)
        for budget in BUDGETS
    }
    thresholds["cost"] = threshold_by_cost(
        score_M, validation.labelled.fraud_N, validation.amount_M, false_alarm_cost
    )
    model.metadata["thresholds"] = thresholds
    for name, dataset in datasets.items():
        score_M = scores[name]
        model.metadata[name] = score_metrics(score_M, dataset.labelled.fraud_N) | {
            "at": {at: alert_metrics(dataset, score_M >= score) for at, score in thresholds.items()}
        }
    reference = drift_reference_of_dataset(model, validation, thresholds["cost"])
    model = replace(model, reference=reference)
    if out is not None:
        model.save(out)
    return model


def threshold_by_cost(
    score_N: np.ndarray, fraud_N: np.ndarray, amount_N: np.ndarray, false_alarm_cost: float
) -> float:
    """Returns the threshold of minimum cost; among equal costs, the one with fewest alerts.

    A false alarm costs `false_alarm_cost`, a missed fraud its amount. Raises InputError for no
    events.
    """
    order, step_end = _ranked_steps(score_N)
    saved_N = np.where(fraud_N, amount_N, -false_alarm_cost)[order]
    best = int(np.argmax(np.append(0.0, np.cumsum(saved_N, dtype=np.float64)[step_end])))
    return float(score_N[order[step_end[best - 1]]]) if best else NO_ALERT_SCORE


def threshold_by_budget(
    score_N: np.ndarray, day_N: np.ndarray, user_N: np.ndarray, alerts: float
) -> float:
    """Returns the lowest threshold with at most so many pairs of user and day.

    Raises InputError without events.
    """
    order, _ = _ranked_steps(score_N)
    _, first = np.unique(np.column_stack([day_N, user_N])[order], axis=0, return_index=True)
    highest = -np.sort(-score_N[order[first]])  # score of each pair of user and day
    budget = int(alerts)
    if budget >= len(highest):
        return 0.0
    # highest[budget] is the first score over budget, and so are all equal scores.
    allowed = highest[highest > highest[budget]]
    return float(allowed[-1]) if len(allowed) else NO_ALERT_SCORE


def threshold_per_10000_users(dataset: EventDataset, score_M: np.ndarray, budget: float) -> float:
    """Returns the lowest score with at most `budget` alerts per 10,000 users and mean day."""
    alerts = budget * dataset.user_days / 10_000
    return threshold_by_budget(score_M, dataset.day_M, dataset.user_M, alerts)


def alerts_within_budget(dataset: EventDataset, score_M: np.ndarray, budget: float) -> np.ndarray:
    """Returns (M,) bool: the most suspicious events, with at most `budget` alerts as above."""
    return (score_M >= threshold_per_10000_users(dataset, score_M, budget)) & (score_M > 0)


def _ranked_steps(score_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns indices by descending score, and the last position of each distinct score."""
    if not len(score_N):
        raise InputError("no scores to choose a threshold on")
    order = np.argsort(-score_N, kind="stable")
    ranked = score_N[order]
    return order, np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)


def alert_metrics(dataset: EventDataset, alert_M: np.ndarray) -> dict[str, Any]:
    """Returns alert and fraud rates per 10,000 user-days."""
    pairs = np.column_stack([dataset.user_M, dataset.day_M])
    fraud_M = dataset.labelled.fraud_N

    def user_days_per_10_000(selected_M: np.ndarray) -> float:
        return round(len(np.unique(pairs[selected_M], axis=0)) / dataset.user_days * 10_000, 2)

    return {
        "alerts_per_10000": user_days_per_10_000(alert_M),
        "frauds_alerted_per_10000": user_days_per_10_000(alert_M & fraud_M),
        "frauds_per_10000": user_days_per_10_000(fraud_M),
    }


def features_used_by(rules: Sequence[Rule]) -> list[str]:
    """Returns the features of an event that the rules use."""
    used = (
        name
        for rule in rules
        for name in (*rule.condition.names, rule.value, rule.usual, *rule.message_features.values())
    )
    return [name for name in dict.fromkeys(used) if name and name not in SCORING_ONLY_FEATURES]


def match_rules(
    rules: RuleSet, names: list[str], dataset: EventDataset, score_M: np.ndarray
) -> list[list[RuleMatch]]:
    """The rules that match each event.

    names: columns of the dataset's features. They must include all that the rules use. score_M: the
    model's.
    """
    columns = dict(zip(names, dataset.labelled.x_NF.T, strict=True))
    columns |= {SCORE_FEATURE: score_M, "event_type": np.array(EVENT_TYPES)[dataset.type_M]}
    return evaluate_rules(rules.evaluated("event"), columns, len(score_M))


def uses_score(rule: Rule) -> bool:
    return SCORE_FEATURE in rule.condition.names


def suspicion(matches: Sequence[RuleMatch]) -> float:
    """The suspicion of an event's matches: 0 without any. A higher severity outranks any value."""
    highest = 0.0
    for rule, value in ((match.rule, match.value) for match in matches):
        if rule.state == "ACTIVE" and not uses_score(rule):
            ratio = max(value / rule.threshold, 0.0) if rule.threshold > 0 else 0.0
            rank = Severity(rule.severity).rank + 1 + ratio / (1 + ratio)
            highest = max(highest, rank / (len(Severity) + 1))
    return highest
