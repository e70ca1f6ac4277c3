"""The shipped model of single events: trained on generated shops (liveprofile.simulator).

Each seed is a shop of its own, with other people, other frauds, other honest changes of habit and
crowds. Trees learn on some seeds, with more frauds than usual so that they see many; on others,
with the usual rates, the setting, the calibration and the thresholds are chosen; and on others
again, that none of this has seen, the result is measured. Some shops of the training are young: to
a job that has just begun each device is new, and that must not look like fraud. All of the training
are looked at twice, once with some of what users share missing: nor must a missing device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from liveprofile.drift.reference import Reference
from liveprofile.errors import InputError
from liveprofile.features.entity import NAMES
from liveprofile.progress import Progress
from liveprofile.simulator import Config
from liveprofile.wire.tokens import EVENT_TYPES
from models.fraud.datasets.simulated import SHOP_BITS, Seen, alerted, joined, least_score, see
from models.fraud.explain.reasons import faithfulness
from models.fraud.model import EventModel, probability
from models.fraud.sequence.fit import SequenceRecipe
from models.fraud.sequence.network import Shape
from models.fraud.thresholds import by_cost
from models.fraud.training import drift_reference, fit
from models.fraud.training.stacking import Examples, stack

FAITHFULNESS_EVENTS = 300
# How full a list is tells how long the job has run, more than anything of the event.
_NOT_ASKED = ("_list_events", "_settled_1d", "_settled_7d", "_settled_30d")
FEATURES = [name for name in NAMES if not name.endswith(_NOT_ASKED)]


@dataclass(frozen=True)
class Costs:
    """What thresholds are chosen by."""

    budgets: tuple[float, ...] = (10.0, 20.0, 30.0)  # alerts for 10,000 users a day
    false_alarm_cost: float = 5.0  # money, as the amounts are
    missed_share: float = 1.0  # of a missed fraud's amount


COSTS = Costs()


@dataclass(frozen=True)
class Recipe:
    """Counts are of frauds in a training shop; validation and test have the usual rates."""

    name: str = "event-risk"
    users: int = 2_500
    days: int = 45
    warm_up_days: int = 14  # of validation and test: lists fill first, then events count
    young_days: int = 9  # of a young shop, all of which counts
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
    legitimate_rows: int = 15_000  # of a training shop
    budgets: tuple[float, ...] = Costs.budgets
    false_alarm_cost: float = Costs.false_alarm_cost
    missed_share: float = Costs.missed_share
    settings: tuple[tuple[int, int, float], ...] = ((3, 300, 0.07), (5, 200, 0.07))
    sequence_epochs: int = 8

    def __post_init__(self) -> None:
        if self.days <= self.warm_up_days:
            raise InputError(
                f"days = {self.days}: must be more than the {self.warm_up_days} in which lists fill"
            )

    def sized(self, users: int, days: int) -> Recipe:
        """Shops of another size, as many frauds to a user. Raises InputError for too few days."""
        counts = {
            name: max(1, round(getattr(self, name) * users / self.users))
            for name in ("takeovers", "card_tests", "rings", "honest_changes", "campaigns")
        }
        return replace(self, users=users, days=days, **counts)

    def config(self, seed: int) -> Config:
        return Config(self.users, self.days, seed=seed)

    def training_configs(self) -> list[Config]:
        """Of the shops that are learnt from; the young ones last."""
        settled = [self.training_config(seed, self.days) for seed in self.train_seeds]
        young = [self.training_config(seed, self.young_days) for seed in self.young_train_seeds]
        return settled + young

    def training_config(self, seed: int, days: int) -> Config:
        return Config(
            self.users, days, seed=seed, takeovers=self.takeovers, card_tests=self.card_tests,
            rings=self.rings, honest_changes=self.honest_changes, campaigns=self.campaigns,
        )  # fmt: skip


def train_generated(
    recipe: Recipe | None = None,
    out: Path | None = None,
    on_progress: Progress = lambda stage, done, total: None,
) -> EventModel:
    """The trained model, written to the folder `out` if one is given. Its `about` tells what it was
    trained on and how it does on unseen seeds."""
    recipe = recipe or Recipe()
    training = recipe.training_configs()
    validation = [recipe.config(seed) for seed in recipe.validation_seeds]
    test = [recipe.config(seed) for seed in recipe.test_seeds]
    young = [recipe.training_config(seed, recipe.young_days) for seed in recipe.young_test_seeds]
    total = len(2 * training + validation + 2 * test + young)
    done = iter(range(1, total + 1))

    def seen(
        configs: list[Config], names: list[str], from_day: int, legitimate: int | None = None,
        hidden: Sequence[bool] = (False,), **of_sequence: Any,
    ) -> Seen:  # fmt: skip
        parts = []
        for hides, config in product(hidden, configs):
            parts.append(
                see(
                    config, names, recipe.delay_days, from_day, legitimate, hidden=hides,
                    **of_sequence,
                )
            )  # fmt: skip
            on_progress("shops", next(done), total)
        return joined(parts)

    shape = Shape()
    learnt = seen(
        training, FEATURES, 0, recipe.legitimate_rows, (False, True), sources=shape.sources
    )
    validated = seen(validation, FEATURES, recipe.warm_up_days, sources=shape.sources)
    settings = [
        dict(zip(("max_depth", "rounds", "eta"), one, strict=True)) for one in recipe.settings
    ]
    better, chosen_by = stack(
        _examples(learnt, len(training)), learnt.weight,
        _examples(validated, len(validation)), FEATURES,
        SequenceRecipe(shape, recipe.sequence_epochs), settings, on_progress,
    )  # fmt: skip
    validated = validated._replace(part=better.validation)
    calibration = fit.calibrated(better.choice.margin_N, validated.part.fraud_N)
    setting = better.choice.setting
    about = {"recipe": asdict(recipe), "setting": setting, "chosen_by": chosen_by}
    model = fit.model_of(
        recipe.name, better.choice.booster, calibration, better.train, better.names,
        recipe.delay_days, about, better.sequence,
    )  # fmt: skip
    costs = Costs(recipe.budgets, recipe.false_alarm_cost, recipe.missed_share)
    thresholds = thresholds_of(model, validated, costs)
    model.about["thresholds"] = thresholds
    for name, part in (
        ("validation", validated),
        ("test", seen(test, model.names, recipe.warm_up_days, sequence=model.sequence)),
        (
            "hidden_test",
            seen(test, model.names, recipe.warm_up_days, hidden=(True,), sequence=model.sequence),
        ),
        ("young_test", seen(young, model.names, 0, sequence=model.sequence)),
    ):
        model.about[name] = measured_of(model, part, thresholds)
    return finished(model, validated, out)


def renew_reference(
    folder: Path, on_progress: Progress = lambda stage, done, total: None
) -> Reference:
    """Makes the reference of drift of a saved model again, and nothing else of it.

    Raises InputError as EventModel.load, and for a model of other events.
    """
    model = EventModel.load(folder)
    if "recipe" not in model.about:
        raise InputError(
            f"event model {folder}: it is not of generated shops; its reference is made when it is"
            " trained"
        )
    recipe = Recipe(**model.about["recipe"])
    parts = []
    for done, seed in enumerate(recipe.validation_seeds, 1):
        config = recipe.config(seed)
        parts.append(
            see(
                config, model.names, model.delay_days, recipe.warm_up_days, None,
                sequence=model.sequence,
            )
        )  # fmt: skip
        on_progress("shops", done, len(recipe.validation_seeds))
    reference = drift_reference.of_seen(model, joined(parts), model.about["thresholds"]["cost"])
    reference.save(folder)
    return reference


def _examples(seen: Seen, shops: int) -> Examples:
    """A case lies in one shop, so that no net sees one half of it and is asked for the other; what
    has been looked at twice is one shop."""
    return Examples(seen.part, seen.tokens, seen.user_M, (seen.user_M >> SHOP_BITS) % shops)


def finished(model: EventModel, validated: Seen, out: Path | None) -> EventModel:
    """With what drift is measured against; written to the folder `out` if one is given."""
    reference = drift_reference.of_seen(model, validated, model.about["thresholds"]["cost"])
    model = replace(model, reference=reference)
    if out is not None:
        model.save(out)
    return model


def thresholds_of(model: EventModel, seen: Seen, costs: Costs) -> dict[str, float]:
    """By each of the budgets, and by cost."""
    score_M = probability(model.log_odds(seen.part.x_NF))
    found = {f"budget_{budget:g}": least_score(seen, score_M, budget) for budget in costs.budgets}
    cost = by_cost(
        score_M, seen.part.fraud_N, seen.amount_M, costs.false_alarm_cost, costs.missed_share
    )
    return {name: round(score, 6) for name, score in {**found, "cost": cost.score}.items()}


def measured_of(model: EventModel, seen: Seen, thresholds: dict[str, float]) -> dict[str, Any]:
    """Of scores of events that may not have been seen in training."""
    fraud_M = seen.part.fraud_N
    score_M = probability(model.log_odds(seen.part.x_NF))
    flagged = np.flatnonzero(score_M >= thresholds["cost"])[:FAITHFULNESS_EVENTS]
    types = [EVENT_TYPES[place] for place in seen.type_M[flagged]]
    return {
        **fit.measured(score_M, fraud_M),
        "at": {name: alerted(seen, score_M >= score) for name, score in thresholds.items()},
        "reliability": fit.reliability(score_M, fraud_M),
        "faithfulness": faithfulness(model, seen.part.x_NF[flagged], types),
    }
