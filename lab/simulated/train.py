"""python -m lab.simulated.train FOLDER: trains the shipped fraud model on simulated shops.

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

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count, product
from pathlib import Path

import numpy as np

from cli.progress import progress
from intake.simulator import ShopConfig
from lab.simulated.entity_history import EntityHistory
from lab.simulated.shops import SimulatedShop, concatenate, dataset_of_shop, simulate_shop
from liveprofile.features.entity import ORDER_FEATURES
from liveprofile.progress import Progress
from models.fraud.datasets.event_dataset import EventDataset
from models.fraud.model import FraudModel
from models.fraud.training.evaluate import FALSE_ALARM_COST, complete
from models.fraud.training.fit import FEATURES, fit_model

# A simulated shop is younger than the longest span.
SIMULATED_FEATURES = [name for name in FEATURES if not name.endswith("_90d")]


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
    false_alarm_cost: float = FALSE_ALARM_COST
    settings: tuple[tuple[int, int, float], ...] = ((5, 200, 0.07), (3, 300, 0.07))

    def config(self, seed: int) -> ShopConfig:
        return ShopConfig(self.users, self.days, seed=seed)

    def training_configs(self) -> list[ShopConfig]:
        """Returns the training shops. The young ones are last."""
        settled = [self.training_config(seed, self.days) for seed in self.train_seeds]
        young = [self.training_config(seed, self.young_days) for seed in self.young_train_seeds]
        return settled + young

    def training_config(self, seed: int, days: int) -> ShopConfig:
        kinds = ("takeovers", "card_tests", "rings", "honest_changes", "campaigns")
        return ShopConfig(
            self.users, days, seed=seed, **{kind: getattr(self, kind) for kind in kinds}
        )


def hide_entities(shop: SimulatedShop, seed: int) -> SimulatedShop:
    """Removes entities at random: for each user and kind of entity, with probability 1/2.

    So every combination of missing kinds (device, place, ...) occurs for some user.
    """
    events = shop.history.events
    rng = np.random.default_rng(seed)
    entities = {
        name: np.where(rng.random(shop.user_N.max() + 1)[shop.user_N] < 0.5, 0, codes_N)
        for name, codes_N in events.entities.items()
    }
    history = EntityHistory(events._replace(entities=entities), shop.history.labels)
    return shop._replace(history=history)


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
    done = count(1)

    def simulate(
        configs: list[ShopConfig],
        names: list[str],
        from_day: int,
        legitimate: int | None = None,
        hide_entity_ids: Sequence[bool] = (False,),
    ) -> EventDataset:
        datasets = []
        for hide, config in product(hide_entity_ids, configs):
            shop = simulate_shop(config)
            shop = hide_entities(shop, config.seed) if hide else shop
            datasets.append(dataset_of_shop(shop, names, recipe.delay_days, from_day, legitimate))
            on_progress("shops", next(done), total)
        return concatenate(datasets).events

    names, warm_up_days = [*SIMULATED_FEATURES, *ORDER_FEATURES], recipe.warm_up_days
    train = simulate(train_shops, names, 0, recipe.legitimate_rows, (False, True))
    validation = simulate(validation_shops, names, warm_up_days)
    model = fit_model(
        recipe.name,
        train,
        validation,
        SIMULATED_FEATURES,
        recipe.delay_days,
        [
            dict(zip(("max_depth", "rounds", "eta"), values, strict=True))
            for values in recipe.settings
        ],
        {"recipe": asdict(recipe)},
        on_progress,
    )
    tests = {
        "test": simulate(test_shops, model.names, warm_up_days),
        "hidden_test": simulate(test_shops, model.names, warm_up_days, hide_entity_ids=(True,)),
        "young_test": simulate(young_shops, model.names, 0),
    }
    return complete(model, validation, tests, recipe.false_alarm_cost, out)


if __name__ == "__main__":
    with progress() as on_progress:
        print(train_simulated(out=Path(sys.argv[1]), on_progress=on_progress).version)
