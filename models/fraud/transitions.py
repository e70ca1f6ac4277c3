"""A Markov model of the last events of a user: how much likelier are they before a fraud?

A state is an event's type with the bucket of the gap before the event. The log-ratio of a
transition compares its probability before frauds with that before other events. The trees read the
log-ratios of the last transitions and their running sums, which are log-likelihood ratios of the
last events (a Markov classifier: Rabiner 1989, doi:10.1109/5.18626, without hidden states). Sums
collect what many transitions show a little of, for which the trees alone need many labels.

Shape suffixes: n events, F features, S states, T transitions.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np

from liveprofile.features.entity import ORDER_DEPTH, SCORED_TYPES

TRANSITIONS = ORDER_DEPTH - 1  # the gap before the oldest event of the features is not known
COLUMNS = (
    *(f"transition_{back}" for back in range(1, TRANSITIONS + 1)),
    *(f"transitions_{back}" for back in range(1, TRANSITIONS + 1)),  # sums of the last ones
)
GAP_EDGES_S = (3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
STATES = 1 + len(SCORED_TYPES) * (len(GAP_EDGES_S) + 1)  # the first: no event
_LEGITIMATE_PRIOR = 0.5  # transitions to each state
_FRAUD_PRIOR = 5.0  # transitions from each state, spread as those of other events
_FOLDS = 3


class TransitionModel:
    """ratio_SS: float32 log-ratio of the transition from the earlier state (row) to the later."""

    def __init__(self, ratio_SS: np.ndarray):
        if ratio_SS.shape != (STATES, STATES) or ratio_SS.dtype != np.float32:
            raise ValueError(f"{ratio_SS.dtype} {ratio_SS.shape}, not float32 {STATES, STATES}")
        self.ratio_SS = ratio_SS

    @classmethod
    def fit(cls, x_nF: np.ndarray, names: Sequence[str], fraud_n: np.ndarray) -> Self:
        """x_nF: features of n events. names: of the features; they include ORDER_FEATURES."""
        return cls.fit_states(_states(x_nF, names), fraud_n)

    @classmethod
    def fit_states(cls, state_nT: np.ndarray, fraud_n: np.ndarray) -> Self:
        legitimate_SS = _counts(state_nT[~fraud_n]) + _LEGITIMATE_PRIOR
        legitimate_SS /= legitimate_SS.sum(axis=1, keepdims=True)
        fraud_SS = _counts(state_nT[fraud_n]) + _FRAUD_PRIOR * legitimate_SS
        fraud_SS /= fraud_SS.sum(axis=1, keepdims=True)
        return cls(np.log(fraud_SS / legitimate_SS).astype(np.float32))

    def append(self, x_nF: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Returns (n, F + len(COLUMNS)) float32: the features, then COLUMNS."""
        return np.column_stack([x_nF, self.columns(_states(x_nF, names))])

    def columns(self, state_nT: np.ndarray) -> np.ndarray:
        """Returns (n, len(COLUMNS)) float32."""
        ratio_nT = self.ratio_SS[state_nT[:, 1:], state_nT[:, :-1]]
        return np.column_stack([ratio_nT, np.cumsum(ratio_nT, axis=1, dtype=np.float32)])


def append_out_of_fold(
    x_nF: np.ndarray, names: Sequence[str], fraud_n: np.ndarray, user_n: np.ndarray
) -> np.ndarray:
    """Returns `append` for training events, each with a model that was not fitted on its user.

    A table that has counted an event's own label would show that label to the trees.
    """
    state_nT = _states(x_nF, names)
    fold_n = np.unique(user_n, return_inverse=True)[1] % _FOLDS
    columns = np.empty((len(x_nF), len(COLUMNS)), np.float32)
    for fold in range(_FOLDS):
        held_out_n = fold_n == fold
        model = TransitionModel.fit_states(state_nT[~held_out_n], fraud_n[~held_out_n])
        columns[held_out_n] = model.columns(state_nT[held_out_n])
    return np.column_stack([x_nF, columns])


def _states(x_nF: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """(n, TRANSITIONS + 1) states, the scored event's first.

    Without features of the scored event's type, all events have the first type.
    """
    index = {name: number for number, name in enumerate(names)}
    own_n = np.zeros(len(x_nF))
    for number, name in enumerate(SCORED_TYPES):
        if f"is_{name}" in index:
            own_n = np.where(x_nF[:, index[f"is_{name}"]] == 1, number, own_n)
    type_nT = np.column_stack(
        [own_n, *(x_nF[:, index[f"user_type_{b}_before"]] for b in range(1, TRANSITIONS + 1))]
    )
    gap_nT = np.column_stack(
        [
            x_nF[:, index["user_seconds_since_event"]],
            *(x_nF[:, index[f"user_gap_{b}_before"]] for b in range(2, TRANSITIONS + 2)),
        ]
    )
    # An unknown gap counts as the longest: an older event may have left the list.
    bucket_nT = np.digitize(np.nan_to_num(gap_nT, nan=np.inf), GAP_EDGES_S)
    missing_nT = np.isnan(type_nT)
    known_nT = 1 + np.nan_to_num(type_nT).astype(np.int64) * (len(GAP_EDGES_S) + 1) + bucket_nT
    return np.where(missing_nT, 0, known_nT)


def _counts(state_nT: np.ndarray) -> np.ndarray:
    """(S, S) number of transitions from each earlier state to each later one."""
    pair = (state_nT[:, 1:] * STATES + state_nT[:, :-1]).ravel()
    return np.bincount(pair, minlength=STATES**2).reshape(STATES, STATES).astype(np.float64)
