"""Trains the shipped fraud model on simulated shops (liveprofile.simulator).

Each seed is a different shop with its own people, frauds, honest changes of habit and crowds. Three
disjoint sets of seeds serve as splits:
- train: shops with more frauds than usual, so that the model sees many. Some are young: to a job
  that has just started every device is new, which must not look like fraud. Every shop is in the
  training data twice, the second time with some entities missing (hide_entities), since a missing
  device must not look like fraud either.
- validation: usual rates of fraud. Chooses order, settings, calibration and thresholds.
- test: the result is measured once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from liveprofile.errors import InputError
from liveprofile.features.entity import EVENT_FEATURES, ORDER_FEATURES
from liveprofile.progress import Progress
from liveprofile.simulator import ShopConfig
from models.fraud.datasets.event_dataset import EventDataset, concatenate
from models.fraud.datasets.simulated import simulate_dataset
from models.fraud.model import FraudModel, probability
from models.fraud.training import drift_reference, fit
from models.fraud.training.alert_metrics import (
    alert_metrics,
    threshold_by_cost,
    threshold_per_10000_users,
)
from models.fraud.training.order_choice import first_columns, fit_model

# These features show how long the job has run rather than anything about the event.
FEATURES = [
    name
    for name in EVENT_FEATURES
    if not name.endswith("_list_events") and "_settled_" not in name and name not in ORDER_FEATURES
]
# A simulated shop is younger than the longest span.
SIMULATED_FEATURES = [name for name in FEATURES if not name.endswith("_90d")]


@dataclass(frozen=True)
class AlertCosts:
    """Alert budgets and costs of errors, which decide the thresholds."""

    budgets: tuple[float, ...] = (10.0, 20.0, 30.0)  # alerts per 10,000 users and day
    false_alarm_cost: float = 5.0  # money, in the currency of the amounts
    missed_share: float = 1.0  # cost of a missed fraud, as a share of its amount


DEFAULT_COSTS = AlertCosts()


@dataclass(frozen=True)
class FraudRecipe:
    """Numbers of cases are per training shop. Validation and test shops have the usual rates."""

    name: str = "event-risk"
    users: int = 2_500
    days: int = 45
    warm_up_days: int = 14  # in validation and test: lists fill, events do not count
    young_days: int = 9  # of a young shop; all its events count
    delay_days: float = 7.0
    train_seeds: tuple[int, ...] = (101, 102, 103)
    young_train_seeds: tuple[int, ...] = (111, 112)
    validation_seeds: tuple[int, ...] = (201, 202)
    test_seeds: tuple[int, ...] = (301, 302)
    young_test_seeds: tuple[int, ...] = (311,)
    takeovers: int = 125
    card_tests: int = 60
    rings: int = 8
    honest_changes: int = 200
    campaigns: int = 16
    legitimate_rows: int = 15_000  # per training shop
    budgets: tuple[float, ...] = AlertCosts.budgets
    false_alarm_cost: float = AlertCosts.false_alarm_cost
    missed_share: float = AlertCosts.missed_share
    settings: tuple[tuple[int, int, float], ...] = ((5, 200, 0.07), (3, 300, 0.07))

    def __post_init__(self) -> None:
        if self.days <= self.warm_up_days:
            raise InputError(
                f"days = {self.days}: must be more than the {self.warm_up_days} in which lists fill"
            )

    def sized(self, users: int, days: int) -> FraudRecipe:
        """Returns a recipe for shops of another size with the same number of cases per user.

        Raises InputError if `days` does not exceed the warm-up.
        """
        counts = {
            name: max(1, round(getattr(self, name) * users / self.users))
            for name in ("takeovers", "card_tests", "rings", "honest_changes", "campaigns")
        }
        return replace(self, users=users, days=days, **counts)

    def config(self, seed: int) -> ShopConfig:
        return ShopConfig(self.users, self.days, seed=seed)

    def training_configs(self) -> list[ShopConfig]:
        """Returns the training shops. The young ones are last."""
        settled = [self.training_config(seed, self.days) for seed in self.train_seeds]
        young = [self.training_config(seed, self.young_days) for seed in self.young_train_seeds]
        return settled + young

    def training_config(self, seed: int, days: int) -> ShopConfig:
        return ShopConfig(
            self.users,
            days,
            seed=seed,
            takeovers=self.takeovers,
            card_tests=self.card_tests,
            rings=self.rings,
            honest_changes=self.honest_changes,
            campaigns=self.campaigns,
        )


def train_simulated(
    recipe: FraudRecipe | None = None,
    out: Path | None = None,
    on_progress: Progress = lambda stage, done, total: None,
) -> FraudModel:
    """Trains the model and writes it to the folder `out`, if given.

    The model's metadata has the recipe and the metrics on unseen seeds.
    """
    recipe = recipe or FraudRecipe()
    train_shops = recipe.training_configs()
    validation_shops = [recipe.config(seed) for seed in recipe.validation_seeds]
    test_shops = [recipe.config(seed) for seed in recipe.test_seeds]
    young_shops = [
        recipe.training_config(seed, recipe.young_days) for seed in recipe.young_test_seeds
    ]
    total = len(2 * train_shops + validation_shops + 2 * test_shops + young_shops)
    done = iter(range(1, total + 1))

    def simulate(
        configs: list[ShopConfig],
        names: list[str],
        from_day: int,
        legitimate: int | None = None,
        hide_entity_ids: Sequence[bool] = (False,),
    ) -> EventDataset:
        datasets = []
        for hide, config in product(hide_entity_ids, configs):
            datasets.append(
                simulate_dataset(
                    config,
                    names,
                    recipe.delay_days,
                    from_day,
                    legitimate,
                    hide_entity_ids=hide,
                )
            )
            on_progress("shops", next(done), total)
        return concatenate(datasets)

    warm_up_days = recipe.warm_up_days
    all_names = [*SIMULATED_FEATURES, *ORDER_FEATURES]
    train = simulate(train_shops, all_names, 0, recipe.legitimate_rows, (False, True))
    validation = simulate(validation_shops, all_names, warm_up_days)
    settings = [
        dict(zip(("max_depth", "rounds", "eta"), values, strict=True)) for values in recipe.settings
    ]
    model = fit_model(
        recipe.name,
        train,
        validation,
        SIMULATED_FEATURES,
        recipe.delay_days,
        settings,
        {"recipe": asdict(recipe)},
        on_progress,
    )
    validation = validation._replace(labelled=first_columns(validation.labelled, len(model.names)))
    costs = AlertCosts(recipe.budgets, recipe.false_alarm_cost, recipe.missed_share)
    thresholds = choose_thresholds(model, validation, costs)
    model.metadata["thresholds"] = thresholds
    test = simulate(test_shops, model.names, warm_up_days)
    hidden_test = simulate(test_shops, model.names, warm_up_days, hide_entity_ids=(True,))
    young_test = simulate(young_shops, model.names, 0)
    for name, dataset in (
        ("validation", validation),
        ("test", test),
        ("hidden_test", hidden_test),
        ("young_test", young_test),
    ):
        model.metadata[name] = evaluate_dataset(model, dataset, thresholds)
    return with_reference(model, validation, out)


def with_reference(model: FraudModel, validation: EventDataset, out: Path | None) -> FraudModel:
    """Adds the drift reference to the model and writes it to the folder `out`, if given."""
    reference = drift_reference.drift_reference_of_dataset(
        model, validation, model.metadata["thresholds"]["cost"]
    )
    model = replace(model, reference=reference)
    if out is not None:
        model.save(out)
    return model


def choose_thresholds(
    model: FraudModel, dataset: EventDataset, costs: AlertCosts
) -> dict[str, float]:
    """Returns a threshold for each budget (`budget_N`), and the one of minimum cost (`cost`)."""
    score_M = probability(model.log_odds(dataset.labelled.x_NF))
    thresholds = {
        f"budget_{budget:g}": threshold_per_10000_users(dataset, score_M, budget)
        for budget in costs.budgets
    }
    thresholds["cost"] = threshold_by_cost(
        score_M,
        dataset.labelled.fraud_N,
        dataset.amount_M,
        costs.false_alarm_cost,
        costs.missed_share,
    )
    return thresholds


def evaluate_dataset(
    model: FraudModel, dataset: EventDataset, thresholds: dict[str, float]
) -> dict[str, Any]:
    """Measures scores, alerts at each threshold, and reliability.

    The dataset must be new to the model's training.
    """
    fraud_M = dataset.labelled.fraud_N
    score_M = probability(model.log_odds(dataset.labelled.x_NF))
    return {
        **fit.score_metrics(score_M, fraud_M),
        "at": {
            name: alert_metrics(dataset, score_M >= score) for name, score in thresholds.items()
        },
        "reliability": fit.reliability(score_M, fraud_M),
    }
