"""Rules, model and both on generated shops, and the commands that train and measure the model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from liveprofile.errors import InputError
from liveprofile.progress import Progress
from liveprofile.resources import product_path
from liveprofile.rules.rules import Rule, Rules, read_rules
from models.fraud.model import EventModel
from models.fraud.training.evaluate import SEEDS, compare
from models.fraud.training.train_simulated import Recipe
from tests.unit.models.fraud.test_card_transactions import as_file, transactions

SHIPPED = product_path(Path("models/checkpoints/event-risk"))
RULES = read_rules(product_path(Path("rules.toml")))
SHOP = {"users": 300, "days": 12, "warm_up_days": 7}
BUDGET = 80.0
FRAUDS = {"takeover", "card_test", "coupon_ring"}


@pytest.fixture(scope="module")
def model() -> EventModel:
    return EventModel.load(SHIPPED)


@pytest.fixture(scope="module")
def found(model: EventModel) -> dict:
    return compare(model, RULES, (1, 2), **SHOP, budgets=(BUDGET,))


def rule(**changed: object) -> Rule:
    of_purchases = {
        "id": "every_purchase", "scope": "event", "types": ["purchase"],
        "when": "amount >= threshold", "value": "amount", "threshold": 0.01, "reason": "R",
        "severity": "low", "action": "notify_customer_service", "cool_down_hours": 0,
        "message": "m",
    }  # fmt: skip
    return Rule.model_validate(of_purchases | changed)


def test_each_finds_frauds_and_keeps_to_its_budget(found: dict) -> None:
    assert set(found["at"]) == {"budget_80", "as_they_are"}
    for name, alerted in found["at"]["budget_80"].items():
        frauds = alerted["frauds_alerted_per_10000"]
        assert 0 < frauds <= alerted["alerts_per_10000"] <= BUDGET, name
        assert set(alerted["kinds"]) >= FRAUDS
    model = found["at"]["budget_80"]["model"]
    assert model["frauds_alerted_per_10000"] > 0.9 * model["alerts_per_10000"]
    assert found["score"]["average_precision"] > 0.9


def test_it_is_repeatable(found: dict, model: EventModel) -> None:
    assert compare(model, RULES, (1, 2), **SHOP, budgets=(BUDGET,)) == found


def test_as_they_are_a_rule_alerts_where_it_is_true_unless_in_shadow(model: EventModel) -> None:
    def alerts(*rules: Rule) -> dict:
        found = compare(model, Rules(version="t", rules=rules), (1,), **SHOP)["at"]["as_they_are"]
        return {name: alerted["alerts_per_10000"] for name, alerted in found.items()}

    by_score = rule(id="score", when="score >= threshold", value="score", threshold=0.5)
    sent = alerts(rule(), by_score)
    assert sent["rules"] > 2 * sent["model"] > 0
    assert sent["both"] >= sent["rules"]
    assert alerts(rule(state="SHADOW"), by_score)["rules"] == 0
    assert alerts(rule(state="PAUSED"), by_score)["both"] == sent["model"]


def test_of_each_rule_it_is_told_what_it_finds(found: dict) -> None:
    assert list(found["of_rules"]) == [rule.id for rule in RULES.of("event")]
    by_score = found["at"]["as_they_are"]["model"]
    assert found["of_rules"]["fraud_score"] == by_score
    assert found["of_rules"]["card_testing"]["kinds"]["card_test"]["alerted"] > 0


def test_severity_comes_before_value(model: EventModel) -> None:
    """With room for few, the severe rule's events are the alerts, however small their values; those
    of a rule that sends no alerts are none."""
    severe = rule(
        id="few", types=["coupon"], when="coupon_users_1d >= threshold", value="coupon_users_1d",
        threshold=1, severity="high",
    )  # fmt: skip
    alone = Rules(version="t", rules=[severe])
    beside = Rules(version="t", rules=[rule(), severe, rule(severity="critical", state="SHADOW")])
    few, both = (
        compare(model, rules, (1,), **SHOP, budgets=(BUDGET,))["at"]["budget_80"]["rules"]
        for rules in (alone, beside)
    )
    assert few["alerts_per_10000"] > 0
    assert few == both


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"seeds": (7, 201)}, "seed 201: the model has seen it"), ({"days": 7}, "days = 7: must be")],
)
def test_what_would_tell_nothing_is_refused(model: EventModel, changed: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(model, RULES, **(SHOP | changed))


def test_the_seeds_are_new_to_the_shipped_model(model: EventModel) -> None:
    seen = {
        seed for name, some in model.about["recipe"].items() if "seeds" in name for seed in some
    }
    assert not seen & set(SEEDS)


def test_a_recipe_of_another_size_plants_as_many_frauds_to_a_user() -> None:
    sized = Recipe().sized(250, 20)
    assert (sized.users, sized.days, sized.takeovers, sized.card_tests) == (250, 20, 12, 6)
    assert sized.rings == 1


def command(*arguments: str) -> dict:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def test_training_is_asked_for_what_the_options_say(
    model: EventModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def train(recipe: Recipe, out: Path, on_progress: Progress) -> EventModel:
        asked.append((recipe, out))
        return model

    monkeypatch.setattr("models.fraud.training.train_simulated.train_generated", train)
    report = command("train", "event-risk", "--out", str(tmp_path))
    assert report["version"] == model.version and report["test"] == model.about["test"]
    command("train", "event-risk", "--out", "x", "--users", "250", "--train-seed", "7")
    default, other = Recipe(), replace(Recipe().sized(250, 45), train_seeds=(7,))
    assert asked == [(default, tmp_path), (other, Path("x"))]


def test_the_command_measures_the_shipped_model(model: EventModel) -> None:
    report = command("evaluate", "event-risk", "--users", "300", "--days", "16", "--seed", "6")
    assert (report["model"], report["rules"]) == (model.version, RULES.version)
    assert report["shops"] == {"seeds": [6], "users": 300, "days": 2}
    assert set(report["at"]) == {"budget_10", "budget_20", "as_they_are"}


def test_the_handbooks_protocol_with_other_names_of_columns(tmp_path: Path) -> None:
    file = as_file(transactions(6_000), tmp_path / "t.parquet", amount="price")
    arguments = (
        *("train", "event-risk-handbook", "--data", str(file), "--delay-days", "3"),
        *("--train-start", "2018-04-25", "--train-end", "2018-05-04"),
        *("--test-start", "2018-05-08", "--test-end", "2018-05-17"),
    )
    report = command(*arguments, "--column", "amount=price", "--out", str(tmp_path / "model"))
    assert report["recipe"] == "event-risk-handbook"
    assert set(report["test"]) == {"roc_auc", "average_precision", "card_precision_at_100"}
    assert EventModel.load(tmp_path / "model").version == report["version"]
    wrong = CliRunner().invoke(app, [*arguments, "--column", "colour=red"])
    assert isinstance(wrong.exception, InputError) and "colour=red" in str(wrong.exception)
