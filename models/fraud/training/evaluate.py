"""Rules, model and both, side by side, on generated shops that the model has not seen.

An alert is a user on a day, however many of its events are flagged. Two questions: what a fixed
number of alerts a day finds, if the most suspicious come first, and what the rules find with their
thresholds as they are.

How suspicious an event is:
- rules: by the severity of the severest rule that is true of it; among equals by how far its value
  lies beyond its threshold. Rules that ask for the model's score, or send no alerts, don't count.
- model: by its score.
- both: by the mean of the score and the rules' suspicion, each 0 to 1: first comes what both see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from liveprofile.errors import InputError
from liveprofile.progress import Progress
from liveprofile.rules.flag_history import NoFlagHistory
from liveprofile.rules.flag_policy import SCORE, Finding, FlagPolicy, RuleEvaluation, evaluate
from liveprofile.rules.rules import OF_THE_EVENT, Rule, Rules
from liveprofile.simulator import Config
from liveprofile.wire.tokens import EVENT_TYPES
from models.fraud.datasets.simulated import Seen, alerted, joined, least_score, see
from models.fraud.model import EventModel
from models.fraud.training.fit import measured

SEVERITIES = ("low", "medium", "high", "critical")
BUDGETS = (10.0, 20.0)  # alerts for 10,000 users a day
SEEDS = (401, 402, 403, 404)  # of no recipe


class Judgement(NamedTuple):
    """Of M events."""

    score_M: np.ndarray  # the model's probability
    suspicion_M: np.ndarray  # by rules alone, 0 (none is true) to 1
    alert_MR: np.ndarray  # bool: the rule sends an alert


def compare(
    model: EventModel,
    rules: Rules,
    seeds: Sequence[int] = SEEDS,
    users: int = 2_500,
    days: int = 45,
    warm_up_days: int = 14,
    budgets: Sequence[float] = BUDGETS,
    on_progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """What alerts find (models.fraud.datasets.simulated.alerted): `at` each budget and with the thresholds
    as they are, of `rules`, `model` and `both`; and `of_rules`, of each rule as it is. `score`:
    measures of the model's score.

    The first `warm_up_days` of a shop fill the lists and don't count. Raises InputError for a seed
    that the model has seen, or days that are not more than those.
    """
    known = _seen_seeds(model)
    for seed in seeds:
        if seed in known:
            raise InputError(f"seed {seed}: the model has seen it in training, take another")
    if days <= warm_up_days:
        raise InputError(f"days = {days}: must be more than the {warm_up_days} that fill the lists")
    looked_at = rules.of("event")
    names = list(dict.fromkeys([*model.names, *asked_features(looked_at)]))
    parts, judged = [], []
    for done, seed in enumerate(seeds, 1):
        config = Config(users, days, seed=seed)
        seen = see(config, names, model.delay_days, warm_up_days, None, sequence=model.sequence)
        judged.append(judge(model, rules, names, seen))
        parts.append(seen._replace(part=seen.part._replace(x_NF=seen.part.x_NF[:, :0].copy())))
        on_progress("shops", done, len(seeds))
    seen = joined(parts)
    judgement = Judgement(*map(np.concatenate, zip(*judged, strict=True)))
    return {
        "model": model.version,
        "rules": rules.version,
        "shops": {"seeds": list(seeds), "users": users, "days": days - warm_up_days},
        **what_they_find(seen, judgement, looked_at, budgets),
    }


def what_they_find(
    seen: Seen, judgement: Judgement, looked_at: Sequence[Rule], budgets: Sequence[float]
) -> dict[str, Any]:
    """`score`, `at` and `of_rules`, as `compare` tells them."""
    return {
        "score": measured(judgement.score_M, seen.part.fraud_N),
        "at": {
            **_at_budgets(seen, judgement, budgets),
            "as_they_are": _as_they_are(seen, judgement, looked_at),
        },
        "of_rules": {
            rule.id: alerted(seen, alert_M)
            for rule, alert_M in zip(looked_at, judgement.alert_MR.T, strict=True)
        },
    }


def _seen_seeds(model: EventModel) -> set[int]:
    """All that anything of the model was trained, chosen or measured on."""
    recipe = model.about.get("recipe", {})
    return {seed for name, seeds in recipe.items() if name.endswith("_seeds") for seed in seeds}


def asked_features(rules: Sequence[Rule]) -> list[str]:
    """Those that the rules look at and that are features of an event."""
    asked = (
        name
        for rule in rules
        for name in (*rule.condition.names, rule.value, rule.usual, *rule.shown.values())
    )
    return [name for name in dict.fromkeys(asked) if name and name not in OF_THE_EVENT]


def judge(model: EventModel, rules: Rules, names: list[str], seen: Seen) -> Judgement:
    """names: of the columns of seen.part.x_NF, all that the model and the rules ask for."""
    count = len(seen.time_ms_M)
    columns = dict(zip(names, seen.part.x_NF.T, strict=True))
    score_M = model.score(columns)
    columns[SCORE] = score_M
    columns["event_type"] = np.array(EVENT_TYPES)[seen.type_M]
    found = evaluate(rules.of("event"), columns, count)
    # The flags that the job would raise: on turning true, outside of the cool-down.
    flags = FlagPolicy(NoFlagHistory()).raise_flags(
        [
            RuleEvaluation(str(user), int(time_ms), findings, str(place))
            for place, (user, time_ms, findings) in enumerate(
                zip(seen.user_M, seen.time_ms_M, found, strict=True)
            )
        ],
        rules.version,
    )
    sent = [{flag.rule_id for flag in raised if flag.rule_state == "ACTIVE"} for raised in flags]
    alert_MR = np.array([[rule.id in ids for rule in rules.of("event")] for ids in sent])
    return Judgement(score_M, np.array([_suspicion(findings) for findings in found]), alert_MR)


def _by_score(rule: Rule) -> bool:
    return SCORE in rule.condition.names


def _suspicion(findings: Sequence[Finding]) -> float:
    alerting = (
        finding
        for finding in findings
        if finding.rule.state == "ACTIVE" and not _by_score(finding.rule)
    )
    return max(map(_severity, alerting), default=0.0)


def _severity(finding: Finding) -> float:
    """Above 0, at most 1; a step of severity counts more than any value."""
    rule = finding.rule
    times = max(finding.value / rule.threshold, 0.0) if rule.threshold > 0 else 0.0
    return (SEVERITIES.index(rule.severity) + 1 + times / (1 + times)) / (len(SEVERITIES) + 1)


def _at_budgets(seen: Seen, judgement: Judgement, budgets: Sequence[float]) -> dict[str, Any]:
    suspicion = {
        "rules": judgement.suspicion_M,
        "model": judgement.score_M,
        "both": (judgement.score_M + judgement.suspicion_M) / 2,
    }
    found: dict[str, Any] = {}
    for budget in budgets:
        found[f"budget_{budget:g}"] = {}
        for name, of_M in suspicion.items():
            least = least_score(seen, of_M, budget)
            found[f"budget_{budget:g}"][name] = alerted(seen, (of_M >= least) & (of_M > 0))
    return found


def _as_they_are(seen: Seen, judgement: Judgement, rules: Sequence[Rule]) -> dict[str, Any]:
    by_score_R = np.array([_by_score(rule) for rule in rules])
    return {
        "rules": alerted(seen, judgement.alert_MR[:, ~by_score_R].any(axis=1)),
        "model": alerted(seen, judgement.alert_MR[:, by_score_R].any(axis=1)),
        "both": alerted(seen, judgement.alert_MR.any(axis=1)),
    }
