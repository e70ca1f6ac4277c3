"""Decides whether the fraud model includes the sequence model.

Stacking (Wolpert 1992, "Stacked generalization"): the log-odds of the sequence model are an input
of the trees. For training events they are out of fold. The sequence model costs memory per worker
and time per event, so its gain must be significant in a bootstrap over users
(models/profile/evaluation/intervals.py).

Shape suffix: N events.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score

from liveprofile.progress import Progress
from models.fraud.datasets.labelled_features import LabelledFeatures
from models.fraud.model import SEQUENCE_LOG_ODDS
from models.fraud.sequence.fit import (
    SequenceRecipe,
    fit_sequence_model,
    log_odds_in_chunks,
    out_of_fold_log_odds,
)
from models.fraud.sequence.network import SequenceModel
from models.fraud.sequence.tokens import TokenSequences
from models.fraud.training.fit import SETTINGS, TunedTrees, tune_trees
from models.profile.evaluation.intervals import UserBootstrap


class SequenceExamples(NamedTuple):
    """N events with features for the trees and tokens for the sequence model."""

    labelled: LabelledFeatures
    tokens: TokenSequences
    user_N: np.ndarray
    group_N: np.ndarray  # all events of a group are in the same fold


class Candidate(NamedTuple):
    """Tuned trees, with or without the sequence model, and the splits with its inputs."""

    names: list[str]
    sequence: SequenceModel | None
    train: LabelledFeatures
    validation: LabelledFeatures
    tuned: TunedTrees


class StackingResult(NamedTuple):
    chosen: Candidate
    # Average precision on validation of `trees`, `sequence` and `both`, and `gain_95`, the 95 %
    # interval of the gain of `both` over `trees`.
    chosen_by: dict[str, float | list[float]]


def add_out_of_fold_log_odds(
    train: SequenceExamples,
    recipe: SequenceRecipe,
    on_progress: Progress = lambda stage, done, total: None,
) -> tuple[LabelledFeatures, SequenceModel]:
    """Appends out-of-fold log-odds as the last feature.

    Also returns the sequence model trained on all events.
    """
    fraud_N = train.labelled.fraud_N
    held_out_N = out_of_fold_log_odds(train.tokens, fraud_N, train.group_N, recipe, on_progress)
    sequence = fit_sequence_model(train.tokens, fraud_N, recipe)
    return _append_column(train.labelled, held_out_N), sequence


def add_log_odds(examples: SequenceExamples, sequence: SequenceModel) -> LabelledFeatures:
    """Appends the sequence model's log-odds, for events that it was not trained on."""
    return _append_column(examples.labelled, log_odds_in_chunks(sequence, examples.tokens))


def choose_candidate(
    train: SequenceExamples,
    legitimate_weight: float,
    validation: SequenceExamples,
    names: list[str],
    recipe: SequenceRecipe,
    settings: Sequence[dict] = tuple(SETTINGS),
    on_progress: Progress = lambda stage, done, total: None,
) -> StackingResult:
    """Chooses the trees with the sequence model if all of `gain_95` is above 0, else without it."""

    def candidate(
        sequence: SequenceModel | None, train: LabelledFeatures, validation: LabelledFeatures
    ) -> Candidate:
        inputs = names if sequence is None else [*names, SEQUENCE_LOG_ODDS]
        tuned = tune_trees(
            train, legitimate_weight, validation, inputs, list(settings), on_progress
        )
        return Candidate(inputs, sequence, train, validation, tuned)

    trees = candidate(None, train.labelled, validation.labelled)
    stacked_train, sequence = add_out_of_fold_log_odds(train, recipe, on_progress)
    both = candidate(sequence, stacked_train, add_log_odds(validation, sequence))
    fraud_N = validation.labelled.fraud_N
    sequence_precision = average_precision_score(fraud_N, both.validation.x_NF[:, -1])
    gain = UserBootstrap(validation.user_N).average_precision(
        both.tuned.log_odds_N, trees.tuned.log_odds_N, fraud_N
    )
    precision = {
        "trees": trees.tuned.average_precision,
        "sequence": float(sequence_precision),
        "both": both.tuned.average_precision,
    }
    return StackingResult(
        both if gain.low > 0 else trees,
        {name: round(value, 5) for name, value in precision.items()}
        | {"gain_95": [round(value, 5) for value in (gain.low, gain.high)]},
    )


def _append_column(labelled: LabelledFeatures, log_odds_N: np.ndarray) -> LabelledFeatures:
    return LabelledFeatures(np.column_stack([labelled.x_NF, log_odds_N]), labelled.fraud_N)
