"""Churn of Rosbank's clients from their stored profiles, by cross-validation.

The protocol of CoLES (Babaev et al. 2022, arXiv:2002.08232): a profile is made without labels, and
a classifier on top of it is measured by the area under the ROC curve over five folds of the clients
with a label. The classifiers' settings are fixed, so no fold chooses them.

Shape suffixes: U users, F features, K names of a ranking.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

from lab.public_data.profiles import UserFeatures, user_codes
from lab.public_data.tables import read_csv
from liveprofile.errors import InputError
from liveprofile.progress import Progress
from models.profile.data import training_rows
from models.profile.evaluation.next_basket import NO_CODE, codes_of
from models.profile.evaluation.served import stored_scores
from models.profile.inference import ProfileModel, Scores
from models.profile.recipes import Recipe

RECIPE = Recipe(name="rosbank", revision=1, data_licence="that of the data set", epochs=8)
FOLDS, SEED = 5, 42
CLASSIFIERS = {
    "logistic_regression": lambda: make_pipeline(
        StandardScaler(), LogisticRegression(C=0.1, max_iter=2_000)
    ),
    "xgboost": lambda: XGBClassifier(
        n_estimators=500,
        max_depth=5,
        learning_rate=0.02,
        subsample=0.5,
        colsample_bytree=0.75,
        min_child_weight=10,
        random_state=SEED,
        n_jobs=1,
    ),
}


class Profiles(NamedTuple):
    """What is stored of U users after their last window, by kind of feature."""

    key_U: np.ndarray  # `user_key`, ascending
    features: dict[str, np.ndarray]  # (U, F) each


def read_labels(file: Path) -> pd.Series:
    """target_flag by cl_id. Raises InputError, also for a client with two labels."""
    rows = read_csv(file, {"cl_id": pa.int64(), "target_flag": pa.int64()})
    labels = rows.drop_duplicates()
    twice = labels.cl_id[labels.cl_id.duplicated()]
    if len(twice):
        raise InputError(f"{file}: client {twice.iloc[0]} has two values of target_flag")
    return labels.set_index("cl_id").target_flag


def stored_profiles(
    recipe: Recipe, rows: Path, checkpoint: Path, on_progress: Progress
) -> Profiles:
    """The profiles that the job would have stored after each user's last window."""
    streams = training_rows.read(rows)
    model = ProfileModel.load(checkpoint, device="cpu")
    last_U = np.flatnonzero(np.diff(streams.user_W, append=-1))
    numbers = UserFeatures(recipe, streams).at(last_U)
    parts: list[dict[str, np.ndarray]] = []
    for part, scores in stored_scores(model, streams, last_U, numbers, recipe.history_windows):
        parts.append(
            {
                "user features": numbers[part],
                "embedding": scores.embedding_after,
                "interests": _interests(model, scores, streams.categories),
                "values": _values(scores),
            }
        )
        on_progress("profiles", part.stop, len(last_U))
    names = parts[0]
    return Profiles(
        streams.user_key_U,
        {name: np.concatenate([each[name] for each in parts]) for name in names},
    )


def _interests(model: ProfileModel, scores: Scores, categories: list[str]) -> np.ndarray:
    """(U, F) the probability of each of `categories` that is stored, 0 for the others."""
    code_UK = codes_of(scores.interests_after, model.categories, categories)
    dense_UF = np.zeros((len(code_UK), len(categories)), np.float32)
    user_N, place_N = np.nonzero(code_UK != NO_CODE)
    dense_UF[user_N, code_UK[user_N, place_N]] = scores.interests_after_p[user_N, place_N]
    return dense_UF


def _values(scores: Scores) -> np.ndarray:
    """(U, F) churn, spend and all values of the curves."""
    columns = [scores.churn_after[:, None], scores.spend_after[:, None]]
    for value_UHK in scores.value_curves.values_BHK.values():
        columns.append(value_UHK.reshape(len(value_UHK), -1))
    return np.concatenate(columns, axis=1)


def measure(profiles: Profiles, labels: pd.Series) -> dict[str, Any]:
    """Area under the ROC curve of each classifier on each kind of feature, and on all.

    The mean over FOLDS and its standard deviation. Labels without a profile are left out, and
    counted.
    """
    codes = user_codes(profiles.key_U, map(str, labels.index))
    with_profile = codes >= 0
    rows = codes[with_profile]
    truth = labels.to_numpy()[with_profile]
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    sets = profiles.features | {"all": np.concatenate([*profiles.features.values()], axis=1)}
    auc: dict[str, dict[str, list[float]]] = {}
    for name, features in sets.items():
        x = features[rows]
        auc[name] = {}
        for classifier, create in CLASSIFIERS.items():
            scores = [
                roc_auc_score(
                    truth[test], create().fit(x[train], truth[train]).predict_proba(x[test])[:, 1]
                )
                for train, test in folds.split(x, truth)
            ]
            auc[name][classifier] = [
                round(float(np.mean(scores)), 4), round(float(np.std(scores)), 4)
            ]  # fmt: skip
    return {
        "clients": len(truth),
        "churned": int(truth.sum()),
        "without_profile": int((~with_profile).sum()),
        "auc_mean_and_std": auc,
    }
