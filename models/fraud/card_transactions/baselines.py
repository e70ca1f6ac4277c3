"""The baselines of chapter 3 of the Fraud Detection Handbook, on the handbook's own features.

Hyperparameters have the best average precision on the validation period, whose labels are all
known by the end of the training. The test period is scored once, with the chosen hyperparameters.
models.fraud.training.train_handbook measures the fraud model under the same protocol. Gradient
boosting: Chen and Guestrin 2016, arXiv:1603.02754.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, product
from typing import Any, NamedTuple, Protocol

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

from liveprofile.progress import Progress
from models.fraud.card_transactions.data import (
    RankingMetrics,
    TrainTestPeriod,
    Transactions,
    ranking_metrics,
    train_test_rows,
)
from models.fraud.card_transactions.features import handbook_features

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
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, **settings))


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


def evaluate_baselines(
    data: Transactions,
    period: TrainTestPeriod,
    on_progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Returns `settings`, `validation` and `test` metrics of each baseline.

    Raises InputError if a period has no frauds, or nothing else.
    """
    x_NF = handbook_features(data, period.delay_days)
    test_split = train_test_rows(data, period)
    validation_split = train_test_rows(data, period.validation_period())
    fits = sum(len(baseline.settings) + 1 for baseline in BASELINES.values())
    fit_numbers = count(1)

    def fit_and_measure(
        baseline: BaselineModel, settings: dict[str, Any], rows: tuple[np.ndarray, np.ndarray]
    ) -> RankingMetrics:
        """rows: those to train on, then those to measure on."""
        train_rows, measured_rows = rows
        classifier = baseline.make(settings, len(train_rows))
        classifier.fit(x_NF[train_rows], data.fraud_N[train_rows].astype(np.int8))
        score_M = classifier.predict_proba(x_NF[measured_rows])[:, 1]
        on_progress("fit baselines", next(fit_numbers), fits)
        return ranking_metrics(data, measured_rows, score_M)

    report = {}
    for name, baseline in BASELINES.items():
        candidates = [
            (settings, fit_and_measure(baseline, settings, validation_split))
            for settings in baseline.settings
        ]
        settings, validation = max(candidates, key=lambda chosen: chosen[1].average_precision)
        report[name] = {
            "settings": settings,
            "validation": validation._asdict(),
            "test": fit_and_measure(baseline, settings, test_split)._asdict(),
        }
    return report
