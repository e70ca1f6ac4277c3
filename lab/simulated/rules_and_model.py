"""The rules, the fraud model and both together on simulated shops, by kind of case.

Events are ranked by the suspicion of rules, by the model's score, or by the mean of both.

Shape suffixes: M events, R rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from intake.simulator import ShopConfig
from lab.simulated.shops import SimulatedDataset, concatenate, simulate_dataset
from liveprofile.errors import InputError
from liveprofile.progress import Progress
from liveprofile.rules.flag_policy import FlagPolicy, NoPastFlags, RuleEvaluation
from liveprofile.rules.rules import Rule, RuleSet
from models.fraud.datasets.event_dataset import EventDataset
from models.fraud.model import FraudModel
from models.fraud.training.evaluate import (
    BUDGETS,
    alert_metrics,
    alerts_within_budget,
    features_used_by,
    match_rules,
    suspicion,
    uses_score,
)
from models.fraud.training.fit import score_metrics

SEEDS = (401, 402, 403, 404)  # no recipe uses these


class EventScores(NamedTuple):
    """Model score and rule results of M events."""

    score_M: np.ndarray  # the model's probability of fraud
    suspicion_M: np.ndarray  # of the rules, from 0 (no match) to 1
    alert_MR: np.ndarray  # bool: the rule sends an alert


def score_events(
    model: FraudModel, rules: RuleSet, names: list[str], dataset: EventDataset
) -> EventScores:
    """Applies the model and the rules to all events.

    names: columns of the dataset's features. They must include all that model and rules use.
    """
    score_M = model.score(dataset.labelled.x_NF[:, list(map(names.index, model.names))])
    matches_M = match_rules(rules, names, dataset, score_M)
    # As in the job, a rule raises a flag when it turns true and is not in its cool-down.
    flags = FlagPolicy(NoPastFlags()).raise_flags(
        [
            RuleEvaluation(str(user), int(time_ms), matches, str(index))
            for index, (user, time_ms, matches) in enumerate(
                zip(dataset.user_M, dataset.time_ms_M, matches_M, strict=True)
            )
        ],
        rules.version,
    )
    alerts = [{flag.rule_id for flag in raised if flag.rule_state == "ACTIVE"} for raised in flags]
    event_rules = rules.evaluated("event")
    alert_MR = np.array([[rule.id in rule_ids for rule in event_rules] for rule_ids in alerts])
    return EventScores(score_M, np.array(list(map(suspicion, matches_M))), alert_MR)


def alerted_kinds(dataset: SimulatedDataset, alert_M: np.ndarray) -> dict[str, dict[str, Any]]:
    """Returns the alerted shares of each kind of case: of its cases, and of its user-days.

    A case is alerted if one of its events is. A ring has many users.
    """
    events = dataset.events
    pairs = np.column_stack([events.user_M, events.day_M])
    user_day_M = np.unique(pairs, axis=0, return_inverse=True)[1].ravel()

    def share_alerted(key_M: np.ndarray, is_kind_M: np.ndarray) -> float:
        """The share of the kind's keys that have an alert."""
        alerted = np.unique(key_M[is_kind_M & alert_M])
        return round(len(alerted) / len(np.unique(key_M[is_kind_M])), 4)

    kinds = {}
    for kind in sorted(set(dataset.case_kind_M) - {""}):
        is_kind_M = dataset.case_kind_M == kind
        kinds[kind] = {
            "cases": len(np.unique(dataset.case_M[is_kind_M])),
            "alerted": share_alerted(dataset.case_M, is_kind_M),
            "user_days_alerted": share_alerted(user_day_M, is_kind_M),
        }
    return kinds


def compare_rules_and_model(
    model: FraudModel,
    rules: RuleSet,
    seeds: Sequence[int] = SEEDS,
    users: int = 2_500,
    days: int = 45,
    warm_up_days: int = 14,
    budgets: Sequence[float] = BUDGETS[:2],
    on_progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Returns the report of `detection_report` for the shops of these seeds.

    The first `warm_up_days` of a shop fill the lists, and their events do not count. Raises
    InputError for a seed of the model's recipe, and if `days` does not exceed `warm_up_days`.
    """
    recipe = model.metadata.get("recipe", {})
    used = {seed for name, each in recipe.items() if name.endswith("_seeds") for seed in each}
    for seed in used.intersection(seeds):
        raise InputError(f"seed {seed}: the model's training used it, choose another seed")
    if days <= warm_up_days:
        raise InputError(f"days = {days}: must be more than the {warm_up_days} that fill the lists")
    event_rules = rules.evaluated("event")
    names = list(dict.fromkeys([*model.names, *features_used_by(event_rules)]))
    datasets, scores = [], []
    for done, seed in enumerate(seeds, 1):
        config = ShopConfig(users, days, seed=seed)
        dataset = simulate_dataset(config, names, model.delay_days, warm_up_days, None)
        events = dataset.events
        scores.append(score_events(model, rules, names, events))
        no_features = events.labelled._replace(x_NF=events.labelled.x_NF[:, :0].copy())
        datasets.append(dataset._replace(events=events._replace(labelled=no_features)))
        on_progress("shops", done, len(seeds))
    all_scores = EventScores(*map(np.concatenate, zip(*scores, strict=True)))
    dataset = concatenate(datasets)

    def measure(events: EventDataset, alert_M: np.ndarray) -> dict[str, Any]:
        return {**alert_metrics(events, alert_M), "kinds": alerted_kinds(dataset, alert_M)}

    return {
        "model": model.version,
        "rules": rules.version,
        "shops": {"seeds": list(seeds), "users": users, "days": days - warm_up_days},
        **detection_report(dataset.events, all_scores, event_rules, budgets, measure),
    }


def detection_report(
    dataset: EventDataset,
    scores: EventScores,
    event_rules: Sequence[Rule],
    budgets: Sequence[float],
    measure: Callable[[EventDataset, np.ndarray], dict[str, Any]],
) -> dict[str, Any]:
    """Returns what the model and the rules find, by the `measure` of a dataset's alerts.

    - `score`: metrics of the model's score.
    - `at`: alert metrics of `rules`, `model` and `both`, for each budget (`budget_N`, most
      suspicious first) and with the current thresholds (`as_they_are`).
    - `of_rules`: alert metrics of each rule with its current threshold.
    """
    rankings = {
        "rules": scores.suspicion_M,
        "model": scores.score_M,
        "both": (scores.score_M + scores.suspicion_M) / 2,
    }
    at: dict[str, dict[str, Any]] = {}
    for budget in budgets:
        at[f"budget_{budget:g}"] = {
            name: measure(dataset, alerts_within_budget(dataset, each_M, budget))
            for name, each_M in rankings.items()
        }
    uses_score_R = np.array([uses_score(rule) for rule in event_rules], bool)
    parts = {"rules": ~uses_score_R, "model": uses_score_R, "both": uses_score_R | True}
    at["as_they_are"] = {
        name: measure(dataset, scores.alert_MR[:, part_R].any(axis=1))
        for name, part_R in parts.items()
    }
    return {
        "score": score_metrics(scores.score_M, dataset.labelled.fraud_N),
        "at": at,
        "of_rules": {
            rule.id: measure(dataset, alert_M)
            for rule, alert_M in zip(event_rules, scores.alert_MR.T, strict=True)
        },
    }
