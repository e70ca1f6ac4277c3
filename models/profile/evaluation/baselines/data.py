"""What every baseline of churn and spend is given, how its settings are chosen, what it returns.

A prediction is made at a window's end. Settings are chosen on the validation part alone; the test
part has no labels here.

Shape suffix: W windows of one part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

from models.profile.data.examples import Corpus
from models.profile.evaluation.baselines.rfm import Features, features

if TYPE_CHECKING:
    from models.profile.data.prepared import Split

Predict = Callable[[np.ndarray], np.ndarray]  # windows to a value of each
Loss = Callable[["Part", np.ndarray], float]  # of such values, the lower the better


class Part(NamedTuple):
    """Windows whose labels are known."""

    windows_W: np.ndarray
    left_W: np.ndarray  # churn: no purchase within the horizon
    spend_W: np.ndarray  # within the horizon, currency

    @property
    def both_kinds(self) -> bool:
        """Whether some windows churned and some did not."""
        return bool(self.left_W.any() and not self.left_W.all())


class Data(NamedTuple):
    """Training labels are known by `train_until_ms`; validation's only later."""

    corpus: Corpus
    rfm: Features
    train: Part
    validation: Part
    test_W: np.ndarray  # windows whose labels are known by the test's end
    train_until_ms: int

    @classmethod
    def of(cls, corpus: Corpus, parts: Split) -> Data:
        """Validation has windows of the training too: those whose labels it could not know."""
        all_W = np.arange(len(corpus.streams.user_W))
        in_time = corpus.known_labels(all_W, parts.train_until_ms)
        validated = corpus.known_labels(all_W, parts.validation_until_ms) & ~in_time
        train, validation = (
            Part(windows_W, corpus.purchases_W[windows_W] == 0, corpus.spend_W[windows_W])
            for windows_W in (parts.train[in_time[parts.train]], np.flatnonzero(validated))
        )
        return cls(
            corpus,
            features(corpus.streams),
            train,
            validation,
            parts.test[corpus.known_labels(parts.test, parts.test_until_ms)],
            parts.train_until_ms,
        )


class Values(NamedTuple):
    """Of the windows `windows_W`; None is what a baseline does not tell."""

    windows_W: np.ndarray
    churn_W: np.ndarray | None  # the higher, the likelier
    spend_W: np.ndarray | None  # currency


class Predictions(NamedTuple):
    validation: Values
    test: Values
    chosen: dict[str, Any]  # settings of each head

    @classmethod
    def of(
        cls,
        data: Data,
        chosen: dict[str, Any],
        churn: Predict | None = None,
        spend: Predict | None = None,
    ) -> Predictions:
        parts = (
            Values(windows_W, churn and churn(windows_W), spend and spend(windows_W))
            for windows_W in (data.validation.windows_W, data.test_W)
        )
        return cls(*parts, chosen)


def choose(
    data: Data,
    settings: list[dict[str, Any]],
    fit: Callable[[dict[str, Any]], Predict],
    loss: Loss,
    on_fit: Callable[[int, int], None],
) -> tuple[dict[str, Any], Predict]:
    """The settings with the least loss on validation, the first of equals, and what they make.

    `on_fit` gets how many settings have been tried, of how many.
    """
    best, found = np.inf, None
    for number, candidate in enumerate(settings, 1):
        predict = fit(candidate)
        lost = loss(data.validation, predict(data.validation.windows_W))
        if found is None or lost < best:
            best, found = lost, (candidate, predict)
        on_fit(number, len(settings))
    return found


def ranking_loss(part: Part, churn_W: np.ndarray) -> float:
    """1 - area under the ROC curve."""
    return 1 - float(roc_auc_score(part.left_W, churn_W))


def absolute_error(part: Part, spend_W: np.ndarray) -> float:
    """Mean, in currency."""
    return float(np.abs(spend_W - part.spend_W).mean())
