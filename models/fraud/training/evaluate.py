"""Compares rules, model and both on simulated shops that are new to the model.

One alert is a user on a day, whatever the number of that user's flagged events. The comparison
answers two questions: what a fixed number of alerts per day finds, most suspicious first, and what
the rules find with their current thresholds.

Events are ranked by suspicion, 0 to 1:
- rules: the severity of the most severe matching rule, then the ratio of its value to its
  threshold. Rules on the model's score and rules that send no alerts are ignored.
- model: the score.
- both: the mean of both.

Shape suffixes: M events, R rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from liveprofile.errors import InputError
from liveprofile.progress import Progress
from liveprofile.rules.flag_policy import (
    FlagPolicy,
    NoFlagHistory,
    RuleEvaluation,
    RuleMatch,
    evaluate_rules,
)
from liveprofile.rules.flags import Severity
from liveprofile.rules.rules import SCORE_FEATURE, SCORING_ONLY_FEATURES, Rule, RuleSet
from liveprofile.simulator import ShopConfig
from liveprofile.wire.tokens import EVENT_TYPES
from models.fraud.datasets.event_dataset import EventDataset, concatenate
from models.fraud.datasets.simulated import simulate_dataset
from models.fraud.model import FraudModel
from models.fraud.training.alert_metrics import alert_metrics, threshold_per_10000_users
from models.fraud.training.fit import score_metrics

BUDGETS = (10.0, 20.0)  # alerts per 10,000 users and day
SEEDS = (401, 402, 403, 404)  # no recipe uses these


class EventScores(NamedTuple):
    """Model score and rule results of M events."""

    score_M: np.ndarray  # the model's probability of fraud
    suspicion_M: np.ndarray  # of the rules, from 0 (no match) to 1
    alert_MR: np.ndarray  # bool: the rule sends an alert


def compare_rules_and_model(
    model: FraudModel,
    rules: RuleSet,
    seeds: Sequence[int] = SEEDS,
    users: int = 2_500,
    days: int = 45,
    warm_up_days: int = 14,
    budgets: Sequence[float] = BUDGETS,
    on_progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Returns the report of `detection_report` for the shops of these seeds.

    The first `warm_up_days` of a shop fill the lists, and their events do not count. Raises
    InputError for a seed of the model's recipe, and if `days` does not exceed `warm_up_days`.
    """
    used_seeds = _recipe_seeds(model)
    for seed in seeds:
        if seed in used_seeds:
            raise InputError(f"seed {seed}: the model's training used it, choose another seed")
    if days <= warm_up_days:
        raise InputError(f"days = {days}: must be more than the {warm_up_days} that fill the lists")
    event_rules = rules.evaluated("event")
    names = list(dict.fromkeys([*model.names, *features_used_by(event_rules)]))
    datasets, scores = [], []
    for done, seed in enumerate(seeds, 1):
        config = ShopConfig(users, days, seed=seed)
        dataset = simulate_dataset(config, names, model.delay_days, warm_up_days, None)
        scores.append(score_events(model, rules, names, dataset))
        no_features = dataset.labelled._replace(x_NF=dataset.labelled.x_NF[:, :0].copy())
        datasets.append(dataset._replace(labelled=no_features))
        on_progress("shops", done, len(seeds))
    all_scores = EventScores(*map(np.concatenate, zip(*scores, strict=True)))
    return {
        "model": model.version,
        "rules": rules.version,
        "shops": {"seeds": list(seeds), "users": users, "days": days - warm_up_days},
        **detection_report(concatenate(datasets), all_scores, event_rules, budgets),
    }


def detection_report(
    dataset: EventDataset,
    scores: EventScores,
    event_rules: Sequence[Rule],
    budgets: Sequence[float],
) -> dict[str, Any]:
    """Returns what the model and the rules find.

    - `score`: metrics of the model's score.
    - `at`: alert metrics of `rules`, `model` and `both`, for each budget (`budget_N`) and with the
      current thresholds (`as_they_are`).
    - `of_rules`: alert metrics of each rule with its current threshold.
    """
    return {
        "score": score_metrics(scores.score_M, dataset.labelled.fraud_N),
        "at": {
            **_metrics_at_budgets(dataset, scores, budgets),
            "as_they_are": _metrics_as_configured(dataset, scores, event_rules),
        },
        "of_rules": {
            rule.id: alert_metrics(dataset, alert_M)
            for rule, alert_M in zip(event_rules, scores.alert_MR.T, strict=True)
        },
    }


def _recipe_seeds(model: FraudModel) -> set[int]:
    """Returns the seeds that the model was trained, tuned or tested on."""
    recipe = model.metadata.get("recipe", {})
    return {seed for name, seeds in recipe.items() if name.endswith("_seeds") for seed in seeds}


def features_used_by(rules: Sequence[Rule]) -> list[str]:
    """Returns the features of an event that the rules use."""
    used = (
        name
        for rule in rules
        for name in (*rule.condition.names, rule.value, rule.usual, *rule.message_features.values())
    )
    return [name for name in dict.fromkeys(used) if name and name not in SCORING_ONLY_FEATURES]


def score_events(
    model: FraudModel, rules: RuleSet, names: list[str], dataset: EventDataset
) -> EventScores:
    """Applies the model and the rules to all events.

    names: columns of the dataset's features. They must include all that model and rules use.
    """
    event_rules = rules.evaluated("event")
    columns = dict(zip(names, dataset.labelled.x_NF.T, strict=True))
    score_M = model.score(columns)
    columns[SCORE_FEATURE] = score_M
    columns["event_type"] = np.array(EVENT_TYPES)[dataset.type_M]
    matches_M = evaluate_rules(event_rules, columns, len(dataset.time_ms_M))
    # As in the job, a rule raises a flag when it turns true and is not in its cool-down.
    flags = FlagPolicy(NoFlagHistory()).raise_flags(
        [
            RuleEvaluation(str(user), int(time_ms), matches, str(index))
            for index, (user, time_ms, matches) in enumerate(
                zip(dataset.user_M, dataset.time_ms_M, matches_M, strict=True)
            )
        ],
        rules.version,
    )
    alerts = [{flag.rule_id for flag in raised if flag.rule_state == "ACTIVE"} for raised in flags]
    alert_MR = np.array([[rule.id in rule_ids for rule in event_rules] for rule_ids in alerts])
    suspicion_M = np.array([_suspicion(matches) for matches in matches_M])
    return EventScores(score_M, suspicion_M, alert_MR)


def _uses_score(rule: Rule) -> bool:
    return SCORE_FEATURE in rule.condition.names


def _suspicion(matches: Sequence[RuleMatch]) -> float:
    alerting = (
        match for match in matches if match.rule.state == "ACTIVE" and not _uses_score(match.rule)
    )
    return max(map(_severity, alerting), default=0.0)


def _severity(match: RuleMatch) -> float:
    """Returns a rank above 0, at most 1. A higher severity outranks any value."""
    rule = match.rule
    ratio = max(match.value / rule.threshold, 0.0) if rule.threshold > 0 else 0.0
    return (Severity(rule.severity).rank + 1 + ratio / (1 + ratio)) / (len(Severity) + 1)


def _metrics_at_budgets(
    dataset: EventDataset, scores: EventScores, budgets: Sequence[float]
) -> dict[str, Any]:
    rankings = {
        "rules": scores.suspicion_M,
        "model": scores.score_M,
        "both": (scores.score_M + scores.suspicion_M) / 2,
    }
    report: dict[str, Any] = {}
    for budget in budgets:
        report[f"budget_{budget:g}"] = {}
        for name, suspicion_M in rankings.items():
            threshold = threshold_per_10000_users(dataset, suspicion_M, budget)
            alert_M = (suspicion_M >= threshold) & (suspicion_M > 0)
            report[f"budget_{budget:g}"][name] = alert_metrics(dataset, alert_M)
    return report


def _metrics_as_configured(
    dataset: EventDataset, scores: EventScores, event_rules: Sequence[Rule]
) -> dict[str, Any]:
    uses_score_R = np.array([_uses_score(rule) for rule in event_rules])
    return {
        "rules": alert_metrics(dataset, scores.alert_MR[:, ~uses_score_R].any(axis=1)),
        "model": alert_metrics(dataset, scores.alert_MR[:, uses_score_R].any(axis=1)),
        "both": alert_metrics(dataset, scores.alert_MR.any(axis=1)),
    }
