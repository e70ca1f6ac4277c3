"""Trains what finds frauds, and the baselines beside it.

Hyperparameters are chosen by average precision on an earlier period of the same shape, whose labels
are all known by the end of the training; the test period is scored once, by what was chosen. The
baselines are those of the handbook's chapter 3 on its own features (see models.fraud.card_transactions.data), chosen
in the same way. Gradient boosting: Chen and Guestrin 2016, arXiv:1603.02754.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

from liveprofile.errors import InputError
from liveprofile.progress import Progress
from models.fraud.card_transactions.data import Period, Scores, Transactions, measure, split
from models.fraud.card_transactions.features import HANDBOOK, Features, features

SEED = 20180801
ROWS_FOR_THREADS = 20_000
FOREST_ROWS = 200_000  # a tree sees at most so many: a year's rows would take hours


class Classifier(Protocol):
    def fit(self, x: np.ndarray, y: np.ndarray) -> Any: ...
    def predict_proba(self, x: np.ndarray) -> np.ndarray: ...


class Kind(NamedTuple):
    """A kind of model: what it sees, and the settings to choose from."""

    features: list[str] | None  # None: all
    settings: list[dict[str, Any]]
    make: Callable[[dict[str, Any], int], Classifier]  # settings, training rows


def _boosting(settings: dict[str, Any], rows: int) -> Classifier:
    return XGBClassifier(
        subsample=0.8,
        min_child_weight=3,
        tree_method="hist",
        # Several threads wait for each other in a loop: beside another process, and with little to
        # do between, that takes a hundred times as long.
        n_jobs=1 if rows < ROWS_FOR_THREADS else None,
        random_state=SEED,
        **settings,
    )


def _forest(settings: dict[str, Any], rows: int) -> Classifier:
    share = min(1.0, FOREST_ROWS / rows)
    return RandomForestClassifier(
        n_estimators=100, max_samples=share, n_jobs=-1, random_state=SEED, **settings
    )


def _logistic(settings: dict[str, Any], _rows: int) -> Classifier:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, **settings))


_BOOSTING = [
    {"max_depth": depth, "n_estimators": rounds, "learning_rate": rate, "colsample_bytree": share}
    for depth, (rounds, rate), share in product((3, 5, 7), ((150, 0.1), (300, 0.04)), (0.5, 0.8))
]
MODEL = Kind(None, _BOOSTING, _boosting)
BASELINES = {
    "logistic_regression": Kind(HANDBOOK, [{"C": c} for c in (0.01, 0.1, 1.0, 10.0)], _logistic),
    "random_forest": Kind(
        HANDBOOK,
        [{"max_depth": d, "min_samples_leaf": n} for d, n in product((10, 20), (1, 5))],
        _forest,
    ),
    "xgboost": Kind(HANDBOOK, _BOOSTING, _boosting),
}


def train(
    data: Transactions,
    period: Period,
    out: Path | None = None,
    on_progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """The report: `test` and `validation` scores of the model, and the same of each baseline.

    `out`: where to write the model, in XGBoost's JSON. Raises InputError for a period without
    frauds.
    """
    known = features(data, period.delay_days)
    train_rows, test_rows = split(data, period)
    try:
        validation = split(data, period.earlier())
    except InputError:  # no earlier period in the data: the first settings have to do
        validation = None
    kinds = {"model": MODEL, **BASELINES}
    fits = sum(len(kind.settings) if validation else 0 for kind in kinds.values()) + len(kinds)
    numbers = count(1)

    def fit(
        kind: Kind, settings: dict[str, Any], seen: Features, parts: tuple[np.ndarray, np.ndarray]
    ) -> tuple[Classifier, Scores]:
        """Learns from the first part's rows and is measured on the second's."""
        learn, ask = parts
        fitted = kind.make(settings, len(learn))
        fitted.fit(seen.values_NF[learn], data.fraud_N[learn].astype(np.int8))
        measured = measure(data, ask, fitted.predict_proba(seen.values_NF[ask])[:, 1])
        on_progress("fit", next(numbers), fits)
        return fitted, measured

    found = {}
    for name, kind in kinds.items():
        seen = known if kind.features is None else known.only(kind.features)
        settings, best = kind.settings[0], None
        for candidate in kind.settings if validation else []:
            _, measured = fit(kind, candidate, seen, validation)
            if best is None or measured.average_precision > best.average_precision:
                settings, best = candidate, measured
        fitted, tested = fit(kind, settings, seen, (train_rows, test_rows))
        found[name] = {
            "settings": settings,
            "validation": best and best._asdict(),
            "test": tested._asdict(),
        }
        if name == "model" and out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            fitted.get_booster().feature_names = seen.names
            fitted.save_model(out)
    counts = {"train": train_rows, "test": test_rows}
    return {
        "transactions": {part: len(rows) for part, rows in counts.items()},
        "frauds": {part: int(data.fraud_N[rows].sum()) for part, rows in counts.items()},
        **found.pop("model"),
        "baselines": found,
    }
