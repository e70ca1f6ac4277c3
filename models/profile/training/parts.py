"""Fits everything behind a finished trunk: embedding, value head, modalities, ranker and curves.

Validation chooses epochs and variants. A refit repeats these choices on more windows, without
validation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from liveprofile.progress import Progress
from models.profile import checkpoint, user_embedding
from models.profile.data.prepared import PreparedData
from models.profile.model_card import ModalityTrial
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe
from models.profile.training import (
    churn_spend_head,
    fit_modalities,
    fit_ranker,
    fit_value_curves,
)


class Parts(NamedTuple):
    """What was fitted: choices and measures, as the model card has them."""

    embedding: dict[str, Any]
    values: dict[str, Any]
    modalities: list[ModalityTrial]
    ranker: dict[str, Any]
    value_curves: dict[str, Any]

    def metrics(self) -> dict[str, Any]:
        """All but the modalities, which have a field of their own in the card."""
        return {name: value for name, value in self._asdict().items() if name != "modalities"}


def fit_parts(
    model: BehaviourTransformer,
    data: PreparedData,
    recipe: Recipe,
    on_progress: Progress = lambda *_: None,
    *,
    keep_embedding: bool = False,
    rankings_only: bool = False,
    chosen: Parts | None = None,
) -> Parts:
    """Fits the parts in place and rounds all weights to float16, as they are stored.

    keep_embedding: the projection to the embedding stays as it is. rankings_only: leaves out what
    no ranking reads. chosen: the result for an earlier trunk, whose choices are repeated without
    validation.
    """
    corpus, split = data.corpus, data.split
    before = chosen._asdict() if chosen else dict.fromkeys(Parts._fields)
    # What follows is fitted to the states that will be served.
    checkpoint.round_weights(model)
    parts = Parts({}, {}, [], {}, {})
    if not (keep_embedding or rankings_only):
        parts = parts._replace(embedding=user_embedding.fit(model, corpus, split.train, recipe))
    if not rankings_only:
        values = churn_spend_head.fit(model, corpus, split, recipe, on_progress, before["values"])
        parts = parts._replace(values=values)
    parts = parts._replace(
        modalities=fit_modalities.fit(
            model, corpus, split, recipe, on_progress, before["modalities"]
        ),
        ranker=fit_ranker.fit(model, data, recipe, on_progress, before["ranker"]),
    )
    if not rankings_only:
        curves = fit_value_curves.fit(model, corpus, split, recipe, on_progress)
        parts = parts._replace(value_curves=curves)
    checkpoint.round_weights(model)
    return parts
