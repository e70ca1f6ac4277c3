"""Fits everything behind a finished trunk: embedding, modalities, ranker and value curves.

Validation chooses epochs and variants. A refit repeats these choices on more windows, without
validation.

Shape suffixes: M sampled windows; D model width; E width of the embedding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from liveprofile.progress import Progress
from models.profile import checkpoint
from models.profile.data.batched_inference import run_trunk
from models.profile.data.examples import Corpus
from models.profile.data.prepared import PreparedData
from models.profile.model_card import ModalityTrial
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe
from models.profile.training import fit_modalities, fit_ranker, fit_value_curves

EMBEDDING_WINDOWS = 5_000


class Parts(NamedTuple):
    """What was fitted: choices and measures, as the model card has them."""

    embedding: dict[str, float]
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
    chosen: Parts | None = None,
) -> Parts:
    """Fits the parts in place and rounds all weights to float16, as they are stored.

    keep_embedding: the projection to the embedding stays as it is. chosen: the result for an
    earlier trunk, whose choices are repeated without validation.
    """
    corpus, split = data.corpus, data.split
    if data.teacher:  # for data without a label of the horizon
        model.value_curves = data.teacher.model.value_curves
    # What follows is fitted to the states that will be served.
    checkpoint.round_weights(model)
    parts = Parts(
        {} if keep_embedding else fit_embedding(model, corpus, split.train, recipe),
        fit_modalities.fit(model, corpus, split, recipe, on_progress, chosen and chosen.modalities),
        fit_ranker.fit(model, data, recipe, on_progress, chosen and chosen.ranker),
        fit_value_curves.fit(model, corpus, split, recipe, on_progress),
    )
    checkpoint.round_weights(model)
    return parts


def fit_embedding(
    model: BehaviourTransformer, corpus: Corpus, windows: np.ndarray, recipe: Recipe
) -> dict[str, float]:
    """Sets `model.embed` from the states after a sample of `windows`.

    Storage and vector index cost grow with the width of the embedding. The projection keeps the
    directions with the largest singular values (Eckart and Young 1936, doi:10.1007/BF02288367), so
    that dot products of embeddings are closest to those of the states. Returns the share of the
    states' squared norm that the embedding keeps.
    """
    samples = min(EMBEDDING_WINDOWS, len(windows))
    sample = windows[np.linspace(0, len(windows) - 1, samples).astype(int)]
    outputs = run_trunk(model, corpus, sample, recipe)
    state_MD = torch.cat([output.last_states() for output in outputs]).double()
    _, size_D, direction_DD = torch.linalg.svd(state_MD, full_matrices=False)
    kept_ED = direction_DD[: model.shape.embedding]
    # The sign of a direction is arbitrary: make its largest component positive.
    largest_E1 = kept_ED.gather(1, kept_ED.abs().argmax(1, keepdim=True))
    with torch.no_grad():
        model.embed.copy_((kept_ED * largest_E1.sign()).T)
    energy_D = size_D.square()
    share = energy_D[: model.shape.embedding].sum() / energy_D.sum()
    return {"kept": round(float(share), 4)}
