"""Labelled events as arrays, and a sample of the legitimate ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SEED = 20180801
# Frauds are rare: of the other rows as many as tell what is usual, with weights that make up for
# those left out, so that probabilities stay what they are.
LEGITIMATE_ROWS = 100_000


class Part(NamedTuple):
    """N events of a part of the data."""

    x_NF: np.ndarray  # float32 features
    fraud_N: np.ndarray  # bool


def sampled(fraud_N: np.ndarray, legitimate: int = LEGITIMATE_ROWS) -> tuple[np.ndarray, float]:
    """Rows of all frauds and of `legitimate` others, and the weight of each of the others."""
    others = np.flatnonzero(~fraud_N)
    if len(others) <= legitimate:
        return np.arange(len(fraud_N)), 1.0
    drawn = np.random.default_rng(SEED).choice(others, legitimate, replace=False)
    return np.sort(np.concatenate([np.flatnonzero(fraud_N), drawn])), len(others) / legitimate
