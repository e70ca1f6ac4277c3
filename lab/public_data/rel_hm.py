"""RelBench rel-hm, task user-churn: who of the customers of a week buys nothing in the next one.

Protocol of Robinson et al. 2024 (arXiv:2407.20060): the rows and labels of the published task
tables, the area under the ROC curve. A row's time is a day whose purchases are known. So a row is a
profile read at the end of that day, and windows end there. Models learn from what is known on the
first validation row's day.

Shape suffixes: M rows of a task table (moments), U users, F features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from xgboost import XGBClassifier

from lab.baselines.values.rfm import rfm_features
from lab.public_data.profiles import UserFeatures, user_codes
from lab.public_data.tables import read_parquet
from liveprofile.errors import InputError
from liveprofile.progress import Progress
from liveprofile.units import DAY_MS
from models.profile.data import training_rows
from models.profile.data.moments import Moments
from models.profile.data.training_rows import Streams
from models.profile.evaluation.served import served_values
from models.profile.inference import ProfileModel
from models.profile.recipes import Recipe

HORIZON_DAYS = 7
RECIPE = Recipe(
    name="rel-hm",
    revision=1,
    data_licence="that of the data set",
    item_names=16_384,
    item_negatives=1024,
    epochs=3,
    # Validation rows are of 2020-09-07, test rows of 2020-09-14; windows end at midnight after it.
    validation_from="2020-09-08",
    test_from="2020-09-15",
    curve_moments=2,  # of each of a million customers, beside the month ends
)
PARTS = ("train", "val", "test")
BOOSTED_WEEKS = 8  # the last ones of the training table
DEPTHS = (3, 5, 7)


class Task(NamedTuple):
    """Rows of a published task table."""

    user_M: list[str]
    day_M: np.ndarray  # datetime64[D]
    churned_M: np.ndarray  # bool


def read_task(folder: Path, part: str) -> Task:
    """Reads tasks/user-churn/PART.parquet. Raises InputError, also for a table without labels."""
    file = folder / "tasks" / "user-churn" / f"{part}.parquet"
    table = read_parquet(file, ["timestamp", "customer_id", "churn"])
    if not len(table):
        raise InputError(f"{file}: no rows")
    days = pd.to_datetime(table.timestamp).to_numpy().astype("datetime64[D]")
    return Task(table.customer_id.astype(str).tolist(), days, table.churn.to_numpy() > 0)


def moments_of(streams: Streams, task: Task) -> Moments:
    """The users' last windows at the ends of the rows' days. Raises InputError if one has none."""
    user_M = user_codes(streams.user_key_U, task.user_M)
    if (user_M < 0).any():
        raise InputError(f"no purchases of customer {task.user_M[int(np.argmin(user_M))]}")
    at_ms_M = (task.day_M.astype(np.int64) + 1) * DAY_MS
    window_M = np.empty(len(user_M), np.int64)
    for at_ms in np.unique(at_ms_M):
        seen = Moments.at(streams, int(at_ms)).window_M
        last_U = np.full(streams.users, -1)
        last_U[streams.user_W[seen]] = seen
        rows = at_ms_M == at_ms
        window_M[rows] = last_U[user_M[rows]]
    if (window_M < 0).any():
        row = int(np.argmin(window_M))
        raise InputError(f"no purchase of customer {task.user_M[row]} up to {task.day_M[row]}")
    return Moments(window_M, at_ms_M)


def measure(folder: Path, rows: Path, checkpoint: Path, on_progress: Progress) -> dict[str, Any]:
    """The area under the ROC curve of the stored churn of 7 days, and of XGBoost.

    XGBoost reads the profile's numbers and RFM features (recency, frequency, monetary value) at the
    rows' times. It learns from the last BOOSTED_WEEKS of the training table; validation chooses its
    depth and rounds.
    """
    streams = training_rows.read(rows)
    tasks = {part: read_task(folder, part) for part in PARTS}
    weeks = np.unique(tasks["train"].day_M)[-BOOSTED_WEEKS:]
    tasks["train"] = _rows(tasks["train"], np.flatnonzero(tasks["train"].day_M >= weeks[0]))
    user_features = UserFeatures(RECIPE, streams)
    moments, numbers, features, report = {}, {}, {}, {}
    for part, task in tasks.items():
        unordered = moments_of(streams, task)
        order = np.lexsort((unordered.at_ms_M, unordered.window_M))  # served_values needs it
        moments[part] = Moments(*(column[order] for column in unordered))
        tasks[part] = _rows(task, order)
        numbers[part] = user_features.at(moments[part].window_M)
        rfm = rfm_features(streams, moments[part]).values_WF
        features[part] = np.column_stack([rfm, numbers[part]])
    boosted = _boosted(features, tasks)
    model = ProfileModel.load(checkpoint, device="cpu")
    for part in PARTS[1:]:
        stored = served_values(
            model,
            streams,
            moments[part],
            numbers[part],
            HORIZON_DAYS,
            on_progress,
        ).churn_W
        truth_M = tasks[part].churned_M
        report[part] = {
            "rows": len(truth_M),
            "churned": int(truth_M.sum()),
            "model_auc": None if stored is None else _auc(truth_M, stored),
            "xgboost_auc": _auc(truth_M, boosted.predict_proba(features[part])[:, 1]),
        }
    return {"users": streams.users, "windows": len(streams.user_W), **report}


def _rows(task: Task, rows: np.ndarray) -> Task:
    return Task([task.user_M[row] for row in rows], task.day_M[rows], task.churned_M[rows])


def _boosted(features: dict[str, np.ndarray], tasks: dict[str, Task]) -> XGBClassifier:
    models = [
        XGBClassifier(
            n_estimators=1_000,
            early_stopping_rounds=50,
            eval_metric="auc",
            max_depth=depth,
            learning_rate=0.05,
            min_child_weight=50,
            subsample=0.8,
            colsample_bytree=0.5,
            random_state=0,
            n_jobs=1,
        ).fit(
            features["train"],
            tasks["train"].churned_M,
            eval_set=[(features["val"], tasks["val"].churned_M)],
            verbose=False,
        )
        for depth in DEPTHS
    ]
    return max(models, key=lambda model: model.best_score)


def _auc(truth_M: np.ndarray, score_M: np.ndarray) -> float:
    return round(float(roc_auc_score(truth_M, score_M)), 4)
