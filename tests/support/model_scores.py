"""The scores of the job's model for the windows of tests.reference.profile."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from liveprofile.events.modalities import Modality
from liveprofile.resources import product_path
from liveprofile.settings import Settings
from liveprofile.wire import tokens as events
from liveprofile.wire.histories import MemoryToken, of_windows
from liveprofile.wire.token_columns import TokenColumns
from models.profile.inference import ProfileModel, Scores
from models.profile.user_features import FEATURE_NAMES
from tests.reference.history import TOKEN_CHARS, Token, token_text
from tests.reference.profile import Result, ScoreWindow
from tests.support.summary import say

BATCH_WINDOWS = 256
PROGRESS_S = 10.0
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

    def digest(self) -> bytes:
        return hashlib.sha256(repr(tuple(self)).encode("utf-8", "surrogatepass")).digest()


class WindowScores(NamedTuple):
    """The scores of one window."""

    values: Scores  # of one row
    # Best first. By name, because the model forgets further ids of earlier calls.
    interests: list[str]
    next_items: list[str]


class Scored:
    """The job's model, which scores equal inputs once.

    A comparison of a topic that has grown since the last one then scores the new windows only.
    """

    def __init__(self, settings: Settings):
        self.model = ProfileModel.load(product_path(settings.model.checkpoint), device="cpu")
        self._scores: dict[bytes, WindowScores] = {}

    def __len__(self) -> int:
        return len(self._scores)

    def score(self, rows: Sequence[ModelInputs]) -> list[WindowScores]:
        """Returns the scores of each row, as those of a batch of one row."""
        digests = [row.digest() for row in rows]
        new = {
            digest: row
            for digest, row in zip(digests, rows, strict=True)
            if digest not in self._scores
        }
        if new:
            scores = self._score_batch(list(new.values()))
            for i, digest in enumerate(new):
                self._scores[digest] = WindowScores(
                    _row(scores, i),
                    [self.model.categories[index] for index in scores.interests_after[i]],
                    [self.model.items[index] for index in scores.next_items[i]],
                )
        return [self._scores[digest] for digest in digests]

    def _score_batch(self, rows: list[ModelInputs]) -> Scores:
        vectors = [
            {
                Modality(*modality): np.array(vector, np.float32)
                for modality, vector in row.vectors.items()
                if modality in self.model.modalities
            }
            for row in rows
        ]
        return self.model.score(
            _columns(row.history for row in rows),
            _columns(row.window for row in rows),
            _model_features([row.numbers_before for row in rows]),
            _model_features([row.numbers_after for row in rows]),
            vectors,
            of_windows([list(map(_memory_window, row.memory)) for row in rows]),
            np.array([row.window_days for row in rows]),
        )


class RecordingModel:
    """Scores one window at a time and records the scores in order.

    truncated: for each window, whether its tokens are too long for history to keep them all.
    """

    def __init__(self, scored: Scored):
        self.scored = scored
        self.scores: list[WindowScores] = []
        self.truncated: list[bool] = []

    def __call__(self, *inputs: Any) -> dict[str, float]:
        row = ModelInputs(*inputs)
        [scores] = self.scored.score([row])
        self.scores.append(scores)
        size_chars = sum(len(token_text(token)) + 1 for token in row.window)
        self.truncated.append(size_chars > TOKEN_CHARS)
        return {
            name: float(getattr(scores.values, field)[0]) for name, field in RULE_VALUES.items()
        }


def run_scored(
    scored: Scored, run: Callable[[ScoreWindow], Result]
) -> tuple[Result, RecordingModel]:
    """Runs a reference for what its windows' inputs are, then with the scores of these.

    A batch takes less time than its windows one by one. No input depends on scores; one that did
    would be scored in the second run.
    """
    waiting: list[ModelInputs] = []
    said_s = time.monotonic()

    def collect(*inputs: Any) -> dict[str, float]:
        nonlocal said_s
        waiting.append(ModelInputs(*inputs))
        if len(waiting) == BATCH_WINDOWS:
            scored.score(waiting)
            waiting.clear()
            if time.monotonic() > said_s + PROGRESS_S:
                said_s = time.monotonic()
                say(f"the reference has scored {len(scored)} windows")
        return dict.fromkeys(RULE_VALUES, 0.0)

    run(collect)
    scored.score(waiting)
    model = RecordingModel(scored)
    return run(model), model


def _model_features(rows: list[Mapping[str, float]]) -> np.ndarray:
    # Amounts are negative if returns exceed purchases.
    values = [[max(numbers[name], 0.0) for name in FEATURE_NAMES] for numbers in rows]
    return np.log1p(np.array(values)).astype(np.float32)


def _columns(rows: Iterable[Iterable[Token]]) -> TokenColumns:
    return TokenColumns.of([[events.Token(*token) for token in tokens] for tokens in rows])


def _memory_window(window: tuple[int, Sequence[Token]]) -> tuple[int, list[MemoryToken]]:
    end_ms, tokens = window
    return end_ms, [MemoryToken(*token[1:4]) for token in tokens]


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
