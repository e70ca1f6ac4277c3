"""Trains the fraud model on the Fraud Detection Handbook's transactions, with the job's features.

A card is a user, a terminal a shop. Hyperparameters and calibration come from the validation
period (models.fraud.card_transactions.data), whose labels are all known by the end of the training.
The test period is scored once, with the chosen hyperparameters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from liveprofile.features.entity import EVENT_FEATURES
from liveprofile.features.entity.columns import type_letter
from liveprofile.progress import Progress
from liveprofile.units import DAY_MS
from models.fraud.card_transactions.data import (
    TrainTestPeriod,
    Transactions,
    ranking_metrics,
    train_test_rows,
)
from models.fraud.datasets.entity_history import (
    LIST_LENGTH,
    EntityHistory,
    EventColumns,
    LabelColumns,
)
from models.fraud.datasets.labelled_features import LabelledFeatures, downsample_legitimate
from models.fraud.model import probability
from models.fraud.training.fit import (
    build_model,
    fit_calibration,
    fit_trees,
    reliability,
    tune_trees,
)

# Transactions have no device, place, coupon or address, so features of these entities are left out.
FEATURES = ["amount", "hour", "weekend", "night"]
FEATURES += [name for name in EVENT_FEATURES if name.split("_")[0] in ("user", "shop")]


def build_history(data: Transactions, delay_days: float, keep: int = LIST_LENGTH) -> EntityHistory:
    """Builds the lists. A fraud has a label after `delay_days`; other transactions have none."""
    count = len(data.time_ms_N)
    events = EventColumns(
        data.time_ms_N,
        np.full(count, type_letter("purchase"), np.uint8),
        data.amount_N,
        np.arange(1, count + 1, dtype=np.int32),
        (data.card_N + 1).astype(np.int32),
        {"shop": (data.terminal_N + 1).astype(np.int32)},
    )
    frauds = np.flatnonzero(data.fraud_N)
    known_ms = data.time_ms_N[frauds] + round(delay_days * DAY_MS)
    return EntityHistory(events, LabelColumns(frauds, np.ones(len(frauds), bool), known_ms), keep)


def train_handbook(
    data: Transactions,
    period: TrainTestPeriod,
    out: Path | None = None,
    on_progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Returns a report: the chosen settings, and `validation` and `test` metrics.

    The metrics are those of models.fraud.card_transactions.baselines. out: folder to write the
    model to. Raises InputError if a period has no frauds, or nothing else.
    """
    history = build_history(data, period.delay_days)
    tuning_rows, validation_rows = train_test_rows(data, period.validation_period())
    train_rows, test_rows = train_test_rows(data, period)

    def examples(rows: np.ndarray) -> LabelledFeatures:
        x_NF = history.features(rows, FEATURES, period.delay_days, on_progress)
        return LabelledFeatures(x_NF, data.fraud_N[rows])

    def training_examples(rows: np.ndarray) -> tuple[LabelledFeatures, float]:
        kept, weight = downsample_legitimate(data.fraud_N[rows])
        return examples(rows[kept]), weight

    validation = examples(validation_rows)
    tuned = tune_trees(
        *training_examples(tuning_rows), validation, FEATURES, on_progress=on_progress
    )
    calibration = fit_calibration(tuned.log_odds_N, validation.fraud_N)
    train, weight = training_examples(train_rows)
    test = examples(test_rows)
    report = {
        "settings": tuned.setting,
        "validation": ranking_metrics(data, validation_rows, tuned.log_odds_N)._asdict(),
    }
    model = build_model(
        "fraud-handbook",
        fit_trees(train, weight, FEATURES, tuned.setting),
        calibration,
        train,
        FEATURES,
        float(period.delay_days),
        report,
    )
    log_odds_N = model.log_odds(test.x_NF)
    report["test"] = ranking_metrics(data, test_rows, log_odds_N)._asdict()
    report["reliability"] = reliability(probability(log_odds_N), test.fraud_N)
    model.metadata.update(report)
    if out is not None:
        model.save(out)
    return {
        "version": model.version,
        "transactions": {"train": len(train_rows), "test": len(test_rows)},
        "frauds": {
            "train": int(data.fraud_N[train_rows].sum()),
            "test": int(test.fraud_N.sum()),
        },
        **report,
    }
