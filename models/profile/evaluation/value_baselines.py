"""Linear baseline models of churn, spend and time to the next purchase, tuned on validation.

They read what the value curves read, at the moment.

Shape suffixes: M moments, X inputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from liveprofile.progress import Progress
from models.profile.data.examples import Corpus
from models.profile.data.moments import Moments, outcomes
from models.profile.data.value_examples import inputs_at
from models.profile.evaluation.any_time import Baseline, Predictions
from models.profile.recipes import Recipe

# Of the mean loss, so that it does not depend on the number of moments.
L2 = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0)


def linear_baselines(
    corpus: Corpus,
    recipe: Recipe,
    train: Moments,
    validation: Moments,
    measured: Moments,
    days: int,
    on_progress: Progress = lambda stage, done, total: None,
) -> dict[str, Baseline]:
    """Logistic regression for churn, linear regression for spend and days, at `measured`.

    Returns an empty dict if training or validation have one class only (all churned or none).
    """
    train_MX, validation_MX, measured_MX = (
        inputs_at(corpus, recipe, *moments) for moments in (train, validation, measured)
    )
    known, held_out = (outcomes(corpus.streams, each, days) for each in (train, validation))
    if not all(each.churned_M.any() and not each.churned_M.all() for each in (known, held_out)):
        return {}
    predictions, settings = {}, {}
    for number, target in enumerate(("churn", "spend", "days")):
        best_loss = np.inf
        for done, l2 in enumerate(L2, 1 + number * len(L2)):
            strength = l2 * len(train_MX)
            if target == "churn":
                regression = LogisticRegression(C=1 / strength, max_iter=1_000)
            else:
                regression = Ridge(alpha=strength)
            model = make_pipeline(StandardScaler(), regression).fit(train_MX, known[number])
            loss = _loss(target, held_out[number], _predict(model, target, validation_MX, days))
            if loss < best_loss:
                best_loss, settings[target] = loss, {"l2": l2}
                predictions[target] = _predict(model, target, measured_MX, days)
            on_progress("regressions", done, 3 * len(L2))
    churn = {"churn": settings.pop("churn")}
    return {
        "logistic_regression": Baseline(Predictions(predictions.pop("churn")), churn),
        "linear_regression": Baseline(Predictions(None, *predictions.values()), settings),
    }


def _predict(model: Any, target: str, input_MX: np.ndarray, days: int) -> np.ndarray:
    if target == "churn":
        return model.predict_proba(input_MX)[:, 1]
    return np.clip(model.predict(input_MX), 0.0, days if target == "days" else np.inf)


def _loss(target: str, true_M: np.ndarray, predicted_M: np.ndarray) -> float:
    """1 - area under the ROC curve of churn, or the mean absolute error."""
    if target == "churn":
        return 1 - float(roc_auc_score(true_M, predicted_M))
    return float(np.abs(predicted_M - true_M).mean())
