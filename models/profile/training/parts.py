"""Fits everything besides the trunk: embedding, modalities, ranker and value curves.

Validation chooses epochs and variants. A refit repeats these choices on more windows, without
validation.

Shape suffixes: M sampled windows; W windows; N their events; D model width; E width of the
embedding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from liveprofile.progress import Progress
from models.profile import checkpoint
from models.profile.data.examples import Corpus, run_trunk
from models.profile.data.prepared import PreparedData
from models.profile.model_card import ModalityTrial
from models.profile.network import BehaviourTransformer, can_surprise, log_p
from models.profile.recipes import Recipe
from models.profile.training import fit_modalities, fit_ranker, fit_value_curves
from models.profile.training.losses import LOSS_TERMS
from models.profile.training.trainer import METRICS, Trainer

EMBEDDING_WINDOWS = 5_000
SURPRISE_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.5": 0.995, "p99.9": 0.999}


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


def validation_metrics(trainer: Trainer) -> dict[str, float | None]:
    """Losses (nats) and NDCG@10 of next events inside windows; None for what validation lacks.

    The progress of a training. models/profile/evaluation/served.py measures what is served.
    """
    best = trainer.curves[trainer.best_epoch - 1]
    found = {name: round(best[f"validation_{name}"], 4) for name in (*LOSS_TERMS, *METRICS)}
    return found if trainer.model.shape.categories else {**found, "category_ndcg_at_10": None}


def surprise_quantiles(
    model: BehaviourTransformer, corpus: Corpus, windows: np.ndarray, recipe: Recipe
) -> dict[str, float]:
    """Quantiles of the windows' mean nats per event.

    Uses the windows with enough events for the surprise rule, or all windows if there are none.
    """
    surprises, counts = [], []
    for output in run_trunk(model, corpus, windows, recipe):
        batch, scored_N = output.batch, output.sequences.scored_N
        target_N = np.flatnonzero(scored_N & can_surprise(model, output.batch.category_N))
        row_N = output.sequences.row_N[target_N]
        h_ND = output.h_PD[torch.from_numpy(batch.flat_position_N[target_N] - 1)]
        repeat_counts_NC = torch.from_numpy(batch.category_repeat_counts.toarray()[row_N])
        log_p_N = log_p(
            model.category_logits(h_ND, repeat_counts_NC),
            torch.from_numpy(batch.category_N[target_N].astype(np.int64)),
        ) + log_p(
            model.type_logits(h_ND), torch.from_numpy(batch.type_N[target_N].astype(np.int64))
        )
        counts.append(np.bincount(row_N))
        surprises.append(np.bincount(row_N, -log_p_N.numpy()) / counts[-1].clip(min=1))
    surprise_W, count_W = np.concatenate(surprises), np.concatenate(counts)
    eligible_W = count_W >= recipe.surprise_min_events
    chosen = surprise_W[eligible_W] if eligible_W.any() else surprise_W
    return {
        name: round(float(np.quantile(chosen, share)), 4)
        for name, share in SURPRISE_QUANTILES.items()
    }
