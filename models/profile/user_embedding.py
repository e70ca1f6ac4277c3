"""Fits the projection of the trunk's states to the embedding of a profile.

Storage and vector index cost grow with the width of the embedding. The projection keeps the
directions with the largest singular values (Eckart and Young 1936, doi:10.1007/BF02288367), so that
dot products of embeddings are closest to those of the states.

Shape suffixes: M sampled windows; D model width; E width of the embedding.
"""

from __future__ import annotations

import numpy as np
import torch

from models.profile.data.batched_inference import run_trunk
from models.profile.data.examples import Corpus
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe

SAMPLE_WINDOWS = 5_000


def fit(
    model: BehaviourTransformer, corpus: Corpus, windows: np.ndarray, recipe: Recipe
) -> dict[str, float]:
    """Sets `model.embed` from the states after a sample of `windows`.

    Returns the share of the states' squared norm that the embedding keeps.
    """
    samples = min(SAMPLE_WINDOWS, len(windows))
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
