"""Events with features, labels and what alert metrics need: users and days.

Shape suffixes: N, M events.
"""

from typing import NamedTuple

import numpy as np

from liveprofile.units import DAY_MS

SEED = 20180801
# Frauds are rare. Training keeps so many legitimate rows, which is enough to learn what is usual,
# and weights them for the dropped ones, so predicted probabilities do not change.
LEGITIMATE_ROWS = 100_000


class LabelledFeatures(NamedTuple):
    """N events with F features."""

    x_NF: np.ndarray  # float32 features
    fraud_N: np.ndarray  # bool


def first_columns(split: LabelledFeatures, columns: int) -> LabelledFeatures:
    """Returns a view of the first columns."""
    return split._replace(x_NF=split.x_NF[:, :columns])


def downsample_legitimate(
    fraud_N: np.ndarray, legitimate: int = LEGITIMATE_ROWS
) -> tuple[np.ndarray, float]:
    """Returns rows of all frauds and `legitimate` random others, and the weight of the others."""
    others = np.flatnonzero(~fraud_N)
    if len(others) <= legitimate:
        return np.arange(len(fraud_N)), 1.0
    drawn = np.random.default_rng(SEED).choice(others, legitimate, replace=False)
    return np.sort(np.concatenate([np.flatnonzero(fraud_N), drawn])), len(others) / legitimate


class EventDataset(NamedTuple):
    """M events of one or more shops, one shop after the other, each in order of time."""

    labelled: LabelledFeatures
    weight: float  # of a legitimate event, above 1 if training drops some
    amount_M: np.ndarray  # money
    type_M: np.ndarray  # index into EVENT_TYPES
    time_ms_M: np.ndarray
    user_M: np.ndarray  # users of different shops have different numbers
    user_days: int  # number of users times days
    shop_M: np.ndarray | int = 0  # number of the shop

    @property
    def day_M(self) -> np.ndarray:
        return self.time_ms_M // DAY_MS
