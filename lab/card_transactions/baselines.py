"""The baselines of chapter 3 of the Fraud Detection Handbook, on its features or on the job's.

Hyperparameters have the best average precision on the validation period, whose labels are all
known by the end of the training. The test period is scored once, with the chosen hyperparameters.
lab.card_transactions.train_handbook measures the fraud model under the same protocol. Gradient
boosting: Chen and Guestrin 2016, arXiv:1603.02754.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, product
from typing import Any, NamedTuple, Protocol

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

from lab.card_transactions.data import (
    TrainTestPeriod,
    Transactions,
    ranking_metrics,
    train_test_rows,
)
from liveprofile.progress import Progress

SEED = 20180801
ROWS_FOR_THREADS = 20_000
FOREST_ROWS = 200_000  # at most so many rows a tree: a year's rows would take hours


class ProbabilityClassifier(Protocol):
    def fit(self, x: np.ndarray, y: np.ndarray) -> Any: ...
    def predict_proba(self, x: np.ndarray) -> np.ndarray: ...


class BaselineModel(NamedTuple):
    settings: list[dict[str, Any]]  # hyperparameters to choose from
    make: Callable[[dict[str, Any], int], ProbabilityClassifier]  # settings, training rows


def _make_boosting(settings: dict[str, Any], rows: int) -> ProbabilityClassifier:
    return XGBClassifier(
        subsample=0.8,
        min_child_weight=3,
        tree_method="hist",
        # Threads wait for each other in a busy loop: next to another process and with few rows,
        # several threads take a hundred times as long as one.
        n_jobs=1 if rows < ROWS_FOR_THREADS else None,
        random_state=SEED,
        **settings,
    )


def _make_forest(settings: dict[str, Any], rows: int) -> ProbabilityClassifier:
    share = min(1.0, FOREST_ROWS / rows)
    return RandomForestClassifier(
        n_estimators=100, max_samples=share, n_jobs=-1, random_state=SEED, **settings
    )


def _make_logistic(settings: dict[str, Any], _rows: int) -> ProbabilityClassifier:
    return make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(max_iter=1000, **settings),
    )


BASELINES = {
    "logistic_regression": BaselineModel(
        [{"C": c} for c in (0.01, 0.1, 1.0, 10.0)], _make_logistic
    ),
    "random_forest": BaselineModel(
        [{"max_depth": d, "min_samples_leaf": n} for d, n in product((10, 20), (1, 5))],
        _make_forest,
    ),
    "xgboost": BaselineModel(
        [
            {
                "max_depth": depth,
                "n_estimators": rounds,
                "learning_rate": rate,
                "colsample_bytree": share,
            }
            for depth, (rounds, rate), share in product(
                (3, 5, 7), ((150, 0.1), (300, 0.04)), (0.5, 0.8)
            )
        ],
        _make_boosting,
    ),
}


FeaturesOf = Callable[[np.ndarray], np.ndarray]  # (W,) rows to their (W, F) features


class Split(NamedTuple):
    """N rows to train on and M to measure on."""

    x_NF: np.ndarray
    fraud_N: np.ndarray
    x_MF: np.ndarray
    rows_M: np.ndarray  # of the transactions

    def scores(self, baseline: BaselineModel, settings: dict[str, Any]) -> np.ndarray:
        """Trains the baseline and returns the (M,) scores of the rows to measure on."""
        classifier = baseline.make(settings, len(self.x_NF))
        classifier.fit(self.x_NF, self.fraud_N.astype(np.int8))
        return classifier.predict_proba(self.x_MF)[:, 1]


def make_split(data: Transactions, period: TrainTestPeriod, features_of: FeaturesOf) -> Split:
    """Raises InputError if a part of the period has no frauds, or nothing else."""
    train_rows, rows_M = train_test_rows(data, period)
    return Split(features_of(train_rows), data.fraud_N[train_rows], features_of(rows_M), rows_M)


def choose_settings(
    data: Transactions,
    baseline: BaselineModel,
    validation: Split,
    on_fit: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], np.ndarray]:
    """Returns the settings with the best average precision, and their (M,) scores."""
    best: tuple[float, dict[str, Any], np.ndarray] | None = None
    for settings in baseline.settings:
        score_M = validation.scores(baseline, settings)
        precision = ranking_metrics(data, validation.rows_M, score_M).average_precision
        if best is None or precision > best[0]:
            best = precision, settings, score_M
        on_fit()
    return best[1:]


def evaluate_baselines(
    data: Transactions,
    period: TrainTestPeriod,
    features_of: FeaturesOf,
    on_progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Returns `settings`, `validation` and `test` metrics of each baseline.

    Raises InputError if a period has no frauds, or nothing else.
    """
    validation = make_split(data, period.validation_period(), features_of)
    test = make_split(data, period, features_of)
    fits = sum(len(baseline.settings) for baseline in BASELINES.values())
    fit_numbers = count(1)
    report = {}
    for name, baseline in BASELINES.items():
        settings, score_M = choose_settings(
            data,
            baseline,
            validation,
            lambda: on_progress("fit baselines", next(fit_numbers), fits),
        )
        test_score_M = test.scores(baseline, settings)
        report[name] = {
            "settings": settings,
            "validation": ranking_metrics(data, validation.rows_M, score_M)._asdict(),
            "test": ranking_metrics(data, test.rows_M, test_score_M)._asdict(),
        }
    return report
