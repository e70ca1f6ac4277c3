"""Events with features, labels and what alert metrics need: users, days, cases of fraud.

Shape suffix: M events.
"""

from __future__ import annotations

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


SHOP_BITS = 32  # user and case numbers: the lower bits count within a shop, the upper are the shop


class EventDataset(NamedTuple):
    """M events of one or more shops, one shop after the other, each in order of time."""

    labelled: LabelledFeatures
    weight: float  # of a legitimate event, above 1 if training drops some
    amount_M: np.ndarray  # money
    type_M: np.ndarray  # index into EVENT_TYPES
    time_ms_M: np.ndarray
    user_M: np.ndarray  # users of different shops have different numbers (SHOP_BITS)
    case_M: np.ndarray  # case of fraud or of an honest change, numbered as users; -1: none
    case_kind_M: np.ndarray  # kind of the case, "" if none
    user_days: int  # number of users times days

    @property
    def day_M(self) -> np.ndarray:
        return self.time_ms_M // DAY_MS


def concatenate(datasets: list[EventDataset]) -> EventDataset:
    """Concatenates datasets of different shops and makes their user and case numbers distinct."""

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(dataset, name) for dataset in datasets])

    x_MF = np.concatenate([dataset.labelled.x_NF for dataset in datasets])
    fraud_M = np.concatenate([dataset.labelled.fraud_N for dataset in datasets])
    legitimate = [(~dataset.labelled.fraud_N).sum() for dataset in datasets]
    shop_M = np.repeat(np.arange(len(datasets)), [len(dataset.case_M) for dataset in datasets])
    shop_offset_M = shop_M << SHOP_BITS
    case_M = column("case_M")
    return EventDataset(
        LabelledFeatures(x_MF, fraud_M),
        float(np.average([dataset.weight for dataset in datasets], weights=legitimate)),
        column("amount_M"),
        column("type_M"),
        column("time_ms_M"),
        column("user_M") + shop_offset_M,
        np.where(case_M < 0, -1, case_M + shop_offset_M),
        column("case_kind_M"),
        sum(dataset.user_days for dataset in datasets),
    )
