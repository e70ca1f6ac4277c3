"""Comparison of rules and model on simulated shops, and its command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab.__main__ import app
from lab.simulated.rules_and_model import compare_rules_and_model
from liveprofile.errors import InputError
from liveprofile.resources import product_path
from liveprofile.rules.rules import Rule, RuleSet, read_rules
from models.fraud.model import FraudModel

SHIPPED = product_path(Path("models/checkpoints/event-risk"))
RULES = read_rules(product_path(Path("rules.toml")))
SHOP = {"users": 300, "days": 12, "warm_up_days": 7}
BUDGET = 80.0
FRAUD_KINDS = {"takeover", "card_test", "coupon_ring"}


@pytest.fixture(scope="module")
def model() -> FraudModel:
    return FraudModel.load(SHIPPED)


@pytest.fixture(scope="module")
def report(model: FraudModel) -> dict:
    return compare_rules_and_model(model, RULES, (1, 2), **SHOP, budgets=(BUDGET,))


def make_rule(**changed: object) -> Rule:
    """A rule that matches every purchase, with changes."""
    every_purchase = {
        "id": "every_purchase",
        "scope": "event",
        "types": ["purchase"],
        "when": "amount >= threshold",
        "value": "amount",
        "threshold": 0.01,
        "reason": "R",
        "severity": "low",
        "action": "notify_customer_service",
        "cool_down_hours": 0,
        "message": "m",
    }
    return Rule.model_validate(every_purchase | changed)


def test_rules_model_and_both_find_frauds_within_the_budget(report: dict) -> None:
    assert set(report["at"]) == {"budget_80", "as_they_are"}
    for name, metrics in report["at"]["budget_80"].items():
        frauds = metrics["frauds_alerted_per_10000"]
        assert 0 < frauds <= metrics["alerts_per_10000"] <= BUDGET, name
        assert set(metrics["kinds"]) >= FRAUD_KINDS
    model = report["at"]["budget_80"]["model"]
    assert model["frauds_alerted_per_10000"] > 0.9 * model["alerts_per_10000"]
    assert report["score"]["average_precision"] > 0.9


def test_severity_outranks_value(model: FraudModel) -> None:
    """With a small budget only the more severe rule's events are alerts, however small their
    values. A rule in SHADOW does not count."""
    severe = make_rule(
        id="few",
        types=["coupon"],
        when="coupon_users_1d >= threshold",
        value="coupon_users_1d",
        threshold=1,
        severity="high",
    )
    shadow = make_rule(severity="critical", state="SHADOW")
    only_severe, all_rules = (
        compare_rules_and_model(
            model, RuleSet(version="t", rules=rules), (1,), **SHOP, budgets=(BUDGET,)
        )["at"]["budget_80"]["rules"]
        for rules in ([severe], [make_rule(), severe, shadow])
    )
    assert only_severe["alerts_per_10000"] > 0
    assert only_severe == all_rules


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": (7, 201)}, "seed 201: the model's training used it"),
        ({"days": 7}, "days = 7: must be"),
    ],
)
def test_seed_of_the_training_or_too_few_days_are_rejected(
    model: FraudModel, changed: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        compare_rules_and_model(model, RULES, **(SHOP | changed))


def test_evaluate_command_measures_the_shipped_model(model: FraudModel) -> None:
    options = ["--users", "300", "--days", "16", "--seed", "6"]
    result = CliRunner().invoke(app, ["event-risk", *options])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert (report["model"], report["rules"]) == (model.version, RULES.version)
    assert report["shops"] == {"seeds": [6], "users": 300, "days": 2}
    assert set(report["at"]) == {"budget_10", "budget_20", "as_they_are"}
