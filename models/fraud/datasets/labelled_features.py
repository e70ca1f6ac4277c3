"""Features and labels of events as arrays, and downsampling of legitimate events."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SEED = 20180801
# Frauds are rare. Training keeps so many legitimate rows, which is enough to learn what is usual,
# and weights them for the dropped ones, so predicted probabilities do not change.
LEGITIMATE_ROWS = 100_000


class LabelledFeatures(NamedTuple):
    """N events with F features."""

    x_NF: np.ndarray  # float32 features
    fraud_N: np.ndarray  # bool


def downsample_legitimate(
    fraud_N: np.ndarray, legitimate: int = LEGITIMATE_ROWS
) -> tuple[np.ndarray, float]:
    """Returns rows of all frauds and `legitimate` random others, and the weight of the others."""
    others = np.flatnonzero(~fraud_N)
    if len(others) <= legitimate:
        return np.arange(len(fraud_N)), 1.0
    drawn = np.random.default_rng(SEED).choice(others, legitimate, replace=False)
    return np.sort(np.concatenate([np.flatnonzero(fraud_N), drawn])), len(others) / legitimate
