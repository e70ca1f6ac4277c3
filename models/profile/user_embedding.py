"""Which directions of the trunk's states make a profile's embedding.

The store and its vector index pay for each number of it, so it keeps those directions along which
states are largest (Eckart and Young 1936, doi:10.1007/BF02288367): the dot products of what is
left come closest to the states' own.
"""

from __future__ import annotations

import numpy as np
import torch

from models.profile.data.batched_inference import passes
from models.profile.data.examples import Corpus
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe

WINDOWS = 5_000


def fit(
    model: BehaviourTransformer, corpus: Corpus, windows: np.ndarray, recipe: Recipe
) -> dict[str, float]:
    """Sets `model.embed` from the states after some of `windows`; says how much it keeps."""
    some = windows[np.linspace(0, len(windows) - 1, min(WINDOWS, len(windows))).astype(int)]
    state_MD = torch.cat([one.ends() for one in passes(model, corpus, some, recipe)]).double()
    _, size_D, direction_DD = torch.linalg.svd(state_MD, full_matrices=False)
    kept_ED = direction_DD[: model.shape.embedding]
    # A direction has two signs; the same one each time.
    largest_E1 = kept_ED.gather(1, kept_ED.abs().argmax(1, keepdim=True))
    with torch.no_grad():
        model.embed.copy_((kept_ED * largest_E1.sign()).T)
    energy_D = size_D.square()
    share = energy_D[: model.shape.embedding].sum() / energy_D.sum()
    return {"kept": round(float(share), 4)}
