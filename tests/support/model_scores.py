"""The scores of the job's model for the windows of tests.reference.profile."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from liveprofile.events.modalities import Modality
from liveprofile.resources import product_path
from liveprofile.settings import Settings
from liveprofile.wire import tokens as events
from liveprofile.wire.histories import MemoryToken, read_memories, window_text
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import WINDOW
from models.profile.inference import ProfileModel, Scores
from models.profile.user_features import FEATURE_NAMES
from tests.reference.history import TOKEN_CHARS, Token, token_text
from tests.reference.profile import Result, ScoreWindow

BATCH_WINDOWS = 256
# What rules read of a window's scores -> field of Scores.
RULE_VALUES = {
    "churn_before": "churn_before",
    "churn_after": "churn_after",
    "expected_spend_before": "spend_before",
    "expected_spend_after": "spend_after",
    "surprise": "surprise",
}


class ModelInputs(NamedTuple):
    """What tests.reference.profile.ScoreWindow takes."""

    history: list[Token]
    window: list[Token]
    numbers_before: Mapping[str, float]
    numbers_after: Mapping[str, float]
    vectors: Mapping[tuple[str, int], Sequence[float]]
    memory: Sequence[tuple[int, Sequence[Token]]]
    window_days: float


class WindowScores(NamedTuple):
    """The scores of one window."""

    values: Scores  # of one row
    # Best first. By name, because the model forgets further ids of earlier calls.
    interests: list[str]
    next_items: list[str]
    truncated: bool  # its tokens are too long for history to keep them all


def load_model(settings: Settings) -> ProfileModel:
    return ProfileModel.load(product_path(settings.model.checkpoint), device="cpu")


def run_scored(
    model: ProfileModel, run: Callable[[ScoreWindow], Result]
) -> tuple[Result, list[WindowScores]]:
    """Runs a reference for what its windows' inputs are, then with the scores of these.

    Returns the result, and the scores in the order of its profiles. A batch takes less time than
    its windows one by one. No input depends on scores.
    """
    inputs: list[ModelInputs] = []

    def collect(*of_window: Any) -> dict[str, float]:
        inputs.append(ModelInputs(*of_window))
        return dict.fromkeys(RULE_VALUES, 0.0)

    run(collect)
    scores = [
        of_window
        for first in range(0, len(inputs), BATCH_WINDOWS)
        for of_window in _score(model, inputs[first : first + BATCH_WINDOWS])
    ]
    in_order = zip(inputs, scores, strict=True)

    def scored(*of_window: Any) -> dict[str, float]:
        collected, found = next(in_order)
        assert collected == of_window
        return {name: float(getattr(found.values, of)[0]) for name, of in RULE_VALUES.items()}

    return run(scored), scores


def _score(model: ProfileModel, rows: list[ModelInputs]) -> list[WindowScores]:
    """The scores of each row, as those of a batch of one row."""
    vectors = [
        {
            Modality(*modality): np.array(vector, np.float32)
            for modality, vector in row.vectors.items()
            if modality in model.modalities
        }
        for row in rows
    ]
    # A window is in the memories of the forty that follow it.
    windows = {id(window): window for row in rows for window in row.memory}
    texts = {at: _memory_text(*window) for at, window in windows.items()}
    memories = [WINDOW.join(texts[id(window)] for window in row.memory) for row in rows]
    scores = model.score(
        _columns(row.history for row in rows),
        _columns(row.window for row in rows),
        _model_features([row.numbers_before for row in rows]),
        _model_features([row.numbers_after for row in rows]),
        vectors,
        read_memories(memories),
        np.array([row.window_days for row in rows]),
    )
    return [
        WindowScores(
            _row(scores, i),
            [model.categories[index] for index in scores.interests_after[i] if index >= 0],
            [model.items[index] for index in scores.next_items[i] if index >= 0],
            sum(len(token_text(token)) + 1 for token in row.window) > TOKEN_CHARS,
        )
        for i, row in enumerate(rows)
    ]


def _model_features(rows: list[Mapping[str, float]]) -> np.ndarray:
    # Amounts are negative if returns exceed purchases.
    values = [[max(numbers[name], 0.0) for name in FEATURE_NAMES] for numbers in rows]
    return np.log1p(np.array(values)).astype(np.float32)


def _columns(rows: Iterable[Iterable[Token]]) -> TokenColumns:
    return TokenColumns.of([[events.Token(*token) for token in tokens] for tokens in rows])


def _memory_text(end_ms: int, tokens: Sequence[Token]) -> str:
    return window_text(end_ms, [MemoryToken(*token[1:4]) for token in tokens])


def _row(scores: Scores, i: int) -> Scores:
    arrays = {
        name: value[i : i + 1]
        for name, value in scores._asdict().items()
        if isinstance(value, np.ndarray)
    }
    curves = scores.value_curves
    values_BHK = {name: value[i : i + 1] for name, value in curves.values_BHK.items()}
    curves = curves._replace(values_BHK=values_BHK)
    return scores._replace(**arrays, value_curves=curves)
