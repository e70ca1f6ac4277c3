"""Trees with and without the sequence model: whether it finds more of the validation's frauds.

Stacking (Wolpert 1992, "Stacked generalization"): the log-odds of the sequence model are one more
input of the trees. Of the training's events they are those of nets that had not seen them. The net
costs a worker memory and each event time, so it has to be better beyond what chance brings: over
the users (models/profile/evaluation/intervals.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score

from liveprofile.progress import Progress
from models.fraud.datasets.part import Part
from models.fraud.model import SEQUENCE
from models.fraud.sequence.fit import SequenceRecipe, fit, in_parts, out_of_fold
from models.fraud.sequence.network import EventSequence
from models.fraud.sequence.tokens import Tokens
from models.fraud.training.fit import SETTINGS, Choice, choose
from models.profile.evaluation.intervals import Bootstrap


class Examples(NamedTuple):
    """N events with all that is learnt from."""

    part: Part
    tokens: Tokens
    user_N: np.ndarray
    group_N: np.ndarray  # whose events don't go into two folds


class Candidate(NamedTuple):
    """One of both: what it was trained on, and the setting that is its best."""

    names: list[str]
    sequence: EventSequence | None
    train: Part
    validation: Part
    choice: Choice


class Stack(NamedTuple):
    better: Candidate
    # Average precision on the validation part: of `trees`, `sequence` and `both`; and `gain_95`,
    # the interval of both's over the trees'.
    chosen_by: dict[str, float | list[float]]


def learn(
    train: Examples,
    recipe: SequenceRecipe,
    on_progress: Progress = lambda stage, done, total: None,
) -> tuple[Part, EventSequence]:
    """The part with its log-odds out of fold as its last column, and the net by all of it."""
    fraud_N = train.part.fraud_N
    held_out_N = out_of_fold(train.tokens, fraud_N, train.group_N, recipe, on_progress)
    return _with(train.part, held_out_N), fit(train.tokens, fraud_N, recipe)


def applied(examples: Examples, sequence: EventSequence) -> Part:
    """A part that wasn't trained on, with its log-odds as its last column."""
    return _with(examples.part, in_parts(sequence, examples.tokens))


def stack(
    train: Examples,
    legitimate_weight: float,
    validation: Examples,
    names: list[str],
    recipe: SequenceRecipe,
    settings: Sequence[dict] = tuple(SETTINGS),
    on_progress: Progress = lambda stage, done, total: None,
) -> Stack:
    """Both if their average precision on the validation part is better than the trees', with all of
    the 95 % interval; else the trees."""

    def candidate(sequence: EventSequence | None, train: Part, validation: Part) -> Candidate:
        asked = names if sequence is None else [*names, SEQUENCE]
        choice = choose(train, legitimate_weight, validation, asked, list(settings), on_progress)
        return Candidate(asked, sequence, train, validation, choice)

    trees = candidate(None, train.part, validation.part)
    learnt, sequence = learn(train, recipe, on_progress)
    both = candidate(sequence, learnt, applied(validation, sequence))
    alone = average_precision_score(validation.part.fraud_N, both.validation.x_NF[:, -1])
    fraud_N = validation.part.fraud_N
    gain = Bootstrap(validation.user_N).average_precision(
        both.choice.margin_N, trees.choice.margin_N, fraud_N
    )
    found = {
        "trees": trees.choice.average_precision,
        "sequence": float(alone),
        "both": both.choice.average_precision,
    }
    return Stack(
        both if gain.low > 0 else trees,
        {name: round(value, 5) for name, value in found.items()}
        | {"gain_95": [round(value, 5) for value in (gain.low, gain.high)]},
    )


def _with(part: Part, log_odds_N: np.ndarray) -> Part:
    return Part(np.column_stack([part.x_NF, log_odds_N]), part.fraud_N)
