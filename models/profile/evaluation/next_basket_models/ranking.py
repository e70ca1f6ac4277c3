"""The best codes of dense scores, and a search for settings.

Shape suffixes: R rows, B rows of a block, C codes, K places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from models.profile.evaluation.next_basket import PLACES
from models.profile.evaluation.next_basket_models.history import History

BLOCK_ROWS = 256
Settings = TypeVar("Settings", bound=Any)


def best_of_blocks(history: History, score: Callable[[slice], np.ndarray]) -> np.ndarray:
    """(R, K) the codes with the highest scores of each row, best first.

    score: returns (B, C) scores of a block of rows. Popularity, at a weight that only breaks ties,
    completes rankings with fewer than K positive scores.
    """
    tie_C = history.popularity_C / max(history.popularity_C.sum(), 1) * 1e-9
    best = []
    for first in range(0, history.rows, BLOCK_ROWS):
        score_BC = score(slice(first, min(first + BLOCK_ROWS, history.rows))) + tie_C
        best.append(torch.from_numpy(score_BC).topk(min(PLACES, score_BC.shape[1])).indices.numpy())
    return np.concatenate(best)


def coordinate_search(
    start: Settings,
    choices: Mapping[str, Sequence[Any]],
    quality: Callable[[Settings], float],
    on_try: Callable[[int, int], None] = lambda done, total: None,
) -> Settings:
    """Improves one setting after the other, in the order of `choices`, from `start`.

    Keeps the earlier of two equally good settings. `on_try` receives the settings tried and their
    largest number.
    """
    best, best_quality = start, quality(start)
    total, tried = 1 + sum(len(values) for values in choices.values()), 1
    on_try(tried, total)
    for name, values in choices.items():
        for value in values:
            candidate = best._replace(**{name: value})
            tried += 1
            if candidate != best and (its_quality := quality(candidate)) > best_quality:
                best, best_quality = candidate, its_quality
            on_try(tried, total)
    return best
