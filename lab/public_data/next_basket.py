"""The last basket of each user, ranked by the user model and by the models of the literature.

Recall@10 and the hit rate are those of Li et al. 2023 (arXiv:2109.14233). Their NDCG divides by the
gain of all items of the basket at the top, also if there are more than ten: `ndcg_at_10_full`.

Shape suffixes: W windows, K places of a ranking.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lab.baselines.next_basket import MODELS
from lab.baselines.tuning import rank_as_of
from liveprofile.progress import Progress
from models.profile.data import training_rows
from models.profile.data.prepared import split_by_time
from models.profile.evaluation.next_basket import (
    PLACES,
    NextBaskets,
    basket_scores,
    compare_rankings,
    next_baskets,
)
from models.profile.evaluation.served import served_rankings
from models.profile.inference import ProfileModel
from models.profile.recipes import Recipe

BASELINES = (
    "popularity", "gp_topfreq", "own_counts", "tifu_knn", "up_cf", "item_knn", "boosted_ranker",
)  # fmt: skip


def measure(recipe: Recipe, rows: Path, checkpoint: Path, on_progress: Progress) -> dict[str, Any]:
    """Metrics of the test part: of the model and of BASELINES, which are tuned on validation.

    The pasts that neighbours, similarities and popularity come from have all baskets but the last.
    """
    streams = training_rows.read(rows)
    split = split_by_time(recipe, streams.end_ms_W)
    targets = next_baskets(streams, "item", split.test)
    model = ProfileModel.load(checkpoint, device="cpu")
    ranking = served_rankings(
        model, streams, targets.window_W, recipe.history_windows, on_progress
    ).item
    past = np.union1d(split.train, split.validation)
    ranked = rank_as_of(
        streams,
        "item",
        split,
        targets,
        {"past": past},
        {name: MODELS[name] for name in BASELINES},
        on_progress,
    )
    baselines = {name: each["past"].ranking_RK for name, each in ranked.items()}
    return {
        "users": streams.users,
        "items": len([name for name in streams.items if name]),
        "baskets": len(streams.user_W),
        **compare_rankings(targets, ranking, baselines),
        "ndcg_at_10_full": {
            name: round(float(ndcg_of_whole_basket(targets, each).mean()), 4)
            for name, each in {"model": ranking, **baselines}.items()
        },
        "chosen": {name: each["past"].settings for name, each in ranked.items()},
    }


def ndcg_of_whole_basket(targets: NextBaskets, ranking_WK: np.ndarray) -> np.ndarray:
    """(W,) the gain of ten places over that of the whole basket at the top."""
    size_W = np.bincount(targets.row_M, minlength=len(targets.window_W))
    ideal = np.cumsum(1 / np.log2(np.arange(size_W.max()) + 2.0))
    ndcg_W = basket_scores(targets, ranking_WK).ndcg_at_10
    return ndcg_W * ideal[np.minimum(size_W, PLACES) - 1] / ideal[size_W - 1]
