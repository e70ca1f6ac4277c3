"""Trains the fraud model on the Fraud Detection Handbook's transactions, with the job's features.

A card is a user, a terminal a shop. Hyperparameters and calibration come from the validation
period (lab.card_transactions.data), whose labels are all known by the end of the training.
The test period is scored once, with the chosen hyperparameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xgboost as xgb

from lab.card_transactions.data import (
    TrainTestPeriod,
    Transactions,
    ranking_metrics,
    train_test_rows,
)
from lab.card_transactions.span_sets import SPAN_SETS, choose_spans, with_order_columns
from lab.simulated.entity_history import (
    LIST_LENGTH,
    EntityHistory,
    EventColumns,
    LabelColumns,
)
from liveprofile.features.entity import EVENT_FEATURES, ORDER_FEATURES, type_letter
from liveprofile.progress import Progress
from liveprofile.units import DAY_MS
from models.fraud.datasets.event_dataset import (
    LabelledFeatures,
    downsample_legitimate,
    first_columns,
)
from models.fraud.training.fit import (
    SETTINGS,
    TreeInputs,
    TunedTrees,
    build_model,
    choose_order,
    fit_calibration,
    fit_trees,
    tree_inputs,
    tune_trees,
)

# Transactions have no device, place, coupon or address, so features of these entities are left out.
FEATURES = ["amount", "hour", "weekend", "night"]
FEATURES += [
    name
    for name in EVENT_FEATURES
    if name.split("_")[0] in ("user", "shop") and name not in ORDER_FEATURES
]


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


class JobFeatures:
    """The features that the job would compute for the transactions."""

    def __init__(
        self,
        data: Transactions,
        delay_days: float,
        on_progress: Progress = lambda stage, done, total: None,
    ):
        self._history = build_history(data, delay_days)
        self._fraud_N, self._card_N = data.fraud_N, data.card_N
        self._delay_days, self._on_progress = delay_days, on_progress

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Returns all FEATURES of these rows."""
        return self.labelled(rows, FEATURES).x_NF

    def labelled(self, rows: np.ndarray, names: list[str]) -> LabelledFeatures:
        x_NF = self._history.features(rows, names, self._delay_days, self._on_progress)
        return LabelledFeatures(x_NF, self._fraud_N[rows])

    def training(
        self, rows: np.ndarray, names: list[str]
    ) -> tuple[LabelledFeatures, float, np.ndarray]:
        """Returns all frauds and some other rows, the weight of the others, and the cards."""
        kept, weight = downsample_legitimate(self._fraud_N[rows])
        return self.labelled(rows[kept], names), weight, self._card_N[rows[kept]]


class ChosenTrees(NamedTuple):
    """Spans, order and settings, with the validation split that has chosen them."""

    names: list[str]  # without order
    spans: dict[str, Any]
    order: dict[str, Any]  # `chosen`: whether the trees read it
    tuned: TunedTrees
    fraud_N: np.ndarray  # of the validation split
    rows_N: np.ndarray


def choose_trees(
    data: Transactions,
    features: JobFeatures,
    period: TrainTestPeriod,
    span_sets: Sequence[str] = tuple(SPAN_SETS),
    on_progress: Progress = lambda stage, done, total: None,
) -> ChosenTrees:
    """Chooses spans, order and settings on `period`.

    Raises InputError if a part of it has no frauds.
    """
    train_rows, rows_N = train_test_rows(data, period)
    names = [*FEATURES, *ORDER_FEATURES]
    train, weight, card_N = features.training(train_rows, names)
    validation = features.labelled(rows_N, names)
    spans = choose_spans(
        first_columns(train, len(FEATURES)),
        weight,
        first_columns(validation, len(FEATURES)),
        FEATURES,
        SETTINGS[0],
        span_sets,
        on_progress,
    )
    train = with_order_columns(spans.train, train)
    validation = with_order_columns(spans.validation, validation)
    inputs, order = choose_order(
        train, card_N, weight, validation, data.card_N[rows_N], spans.names, SETTINGS[0]
    )
    tuned = tune_trees(
        inputs.train, weight, inputs.of(validation), inputs.tree_names, on_progress=on_progress
    )
    return ChosenTrees(spans.names, spans.report, order, tuned, validation.fraud_N, rows_N)


def fit_chosen(
    features: JobFeatures, train_rows: np.ndarray, chosen: ChosenTrees
) -> tuple[TreeInputs, xgb.Booster]:
    """Fits the chosen trees to other rows."""
    train, weight, card_N = features.training(train_rows, [*chosen.names, *ORDER_FEATURES])
    inputs = tree_inputs(train, chosen.names, card_N, chosen.order["chosen"])
    return inputs, fit_trees(inputs.train, weight, inputs.tree_names, chosen.tuned.setting)


def train_handbook(
    data: Transactions,
    period: TrainTestPeriod,
    out: Path | None = None,
    on_progress: Progress = lambda stage, done, total: None,
    span_sets: Sequence[str] = tuple(SPAN_SETS),
) -> dict[str, Any]:
    """Returns a report: chosen spans, order and settings, and `validation` and `test` metrics.

    The metrics are those of lab.card_transactions.baselines. out: folder to write the
    model to. Raises InputError if a period has no frauds, or nothing else.
    """
    features = JobFeatures(data, period.delay_days, on_progress)
    train_rows, test_rows = train_test_rows(data, period)
    chosen = choose_trees(data, features, period.validation_period(), span_sets, on_progress)
    inputs, booster = fit_chosen(features, train_rows, chosen)
    test = features.labelled(test_rows, inputs.names)
    report = {
        "spans": chosen.spans,
        "order": chosen.order,
        "settings": chosen.tuned.setting,
        "validation": ranking_metrics(data, chosen.rows_N, chosen.tuned.log_odds_N)._asdict(),
    }
    model = build_model(
        "fraud-handbook",
        booster,
        fit_calibration(chosen.tuned.log_odds_N, chosen.fraud_N),
        inputs,
        float(period.delay_days),
        report,
    )
    log_odds_N = model.log_odds(test.x_NF)
    report["test"] = ranking_metrics(data, test_rows, log_odds_N)._asdict()
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
