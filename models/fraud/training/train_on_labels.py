"""Trains the fraud model on a shop's own events and labels.

    train                      validation                 test
    |------------------|.......|------------------|.......|------------------|.......|
    train_start        delay   validation_start   delay   test_start         delay   last label

Train and validation use only what was known when the next split began: they ignore later labels,
and end `delay_days` earlier, since most labels of the last `delay_days` were missing. An event
without a label is legitimate, since a victim had `delay_days` to report it. The test uses all
labels.

Shape suffix: M events of a split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from liveprofile.errors import InputError
from liveprofile.features.entity import ORDER_FEATURES
from liveprofile.progress import Progress
from liveprofile.rules.rules import RuleSet
from liveprofile.units import DAY_MS
from models import trained_users
from models.fraud.datasets.event_dataset import (
    EventDataset,
    LabelledFeatures,
    downsample_legitimate,
)
from models.fraud.datasets.labelled_rows import LabelledEvents
from models.fraud.model import TREES_FILE, FraudModel
from models.fraud.training import fit
from models.fraud.training.evaluate import (
    BUDGETS,
    FALSE_ALARM_COST,
    alert_metrics,
    alerts_within_budget,
    complete,
    features_used_by,
    match_rules,
    suspicion,
)
from models.trained_users import TrainedUsers

NAME = "event-risk-own"
_CHUNK_ROWS = 10_000
MIN_FRAUDS = 10  # in each split: with fewer, choices and metrics are meaningless


@dataclass(frozen=True)
class DateSplit:
    """Days in UTC. The test includes the day `test_end`."""

    train_start: date
    validation_start: date
    test_start: date
    test_end: date
    delay_days: float = 7.0  # after which an event without a label is legitimate

    def __post_init__(self) -> None:
        if self.delay_days < 0:
            raise InputError(f"--delay-days {self.delay_days:g}: must not be negative")
        ends = {"--validation-start": self.validation_start, "--test-start": self.test_start}
        for start, (flag, end) in zip(
            (self.train_start, self.validation_start), ends.items(), strict=True
        ):
            if _ms(start) >= _ms(end) - self.delay_ms:
                raise InputError(
                    f"{flag} {end}: no days are left between {start} and the last"
                    f" {self.delay_days:g} days, whose labels were still incomplete"
                )
        if self.test_end < self.test_start:
            raise InputError(f"--test-end {self.test_end}: is before --test-start")

    @property
    def delay_ms(self) -> int:
        return round(self.delay_days * DAY_MS)

    @property
    def spans_ms(self) -> dict[str, tuple[int, int]]:
        """Returns start (inclusive) and end (exclusive) of each split."""
        return {
            "train": (_ms(self.train_start), _ms(self.validation_start) - self.delay_ms),
            "validation": (_ms(self.validation_start), _ms(self.test_start) - self.delay_ms),
            "test": (_ms(self.test_start), _ms(self.test_end) + DAY_MS),
        }

    def check_labels_complete(self, newest_ms: int) -> None:
        """Raises InputError if labels of the test may still arrive.

        newest_ms: time of the newest event or label.
        """
        latest_end_ms = newest_ms // DAY_MS * DAY_MS + DAY_MS - self.delay_ms
        if self.spans_ms["test"][1] > latest_end_ms:
            last = _day(latest_end_ms - DAY_MS)
            raise InputError(
                f"--test-end {self.test_end}: events and labels end on {_day(newest_ms)}, so labels"
                f" of events later than {last}, {self.delay_days:g} days before, may still arrive"
            )


def train_on_labels(
    events: LabelledEvents,
    split: DateSplit,
    rules: RuleSet,
    out: Path | None = None,
    false_alarm_cost: float = FALSE_ALARM_COST,
    settings: Sequence[dict] | None = None,
    on_progress: Progress = lambda stage, done, total: None,
) -> FraudModel:
    """Trains the model and writes it to the folder `out`, if given.

    settings: of the trees, from which validation chooses; None: fit.SETTINGS. The model's metadata
    has the splits, and test metrics of the model, of the rules and of logistic regression. Raises
    InputError for a split with too few frauds, and for a test whose labels may still arrive.
    """
    split.check_labels_complete(int(max(events.time_ms_N[-1], events.labels.time_ms_L[-1])))
    split_rows = {part: _select_rows(events, split, part) for part in split.spans_ms}
    names = [*fit.FEATURES, *ORDER_FEATURES]
    # The rules need more features than the model.
    test_names = list(dict.fromkeys([*names, *features_used_by(rules.evaluated("event"))]))
    train, validation, test = (
        _build_dataset(events, split, part, split_rows[part], part_names, on_progress)
        for part, part_names in (("train", names), ("validation", names), ("test", test_names))
    )
    model = fit.fit_model(
        NAME,
        train,
        validation,
        fit.FEATURES,
        split.delay_days,
        list(settings or fit.SETTINGS),
        {},
        on_progress,
    )
    days = ("train_start", "validation_start", "test_start", "test_end")
    labels, train_fraud_M = events.labels, split_rows["train"].fraud_M
    known = len(np.unique(events.label_N[events.label_N >= 0]))
    model.metadata.update(
        split={name: str(getattr(split, name)) for name in days} | {"delay_days": split.delay_days},
        labels={
            "given": len(labels.event_L),
            "events": known,
            "of_unknown_events": len(labels.event_id) - known,
        },
        train={"events": len(train_fraud_M), "frauds": int(train_fraud_M.sum())},
        baselines={
            "rules": _evaluate_rules(model, rules, test_names, test),
            "logistic_regression": _evaluate_logistic(len(model.names), train, test),
        },
    )
    model = complete(model, validation, {"test": test}, false_alarm_cost, out)
    if out is not None:
        trained = TrainedUsers.of_training(events.user_keys(), events.fingerprint())
        trained_users.write(out, TREES_FILE, trained)
    return model


class _SplitRows(NamedTuple):
    rows_M: np.ndarray
    fraud_M: np.ndarray
    user_days: int


def _select_rows(events: LabelledEvents, split: DateSplit, part: str) -> _SplitRows:
    """Raises InputError if the split has too few frauds, or nothing else."""
    start_ms, end_ms = split.spans_ms[part]
    known_ms = np.iinfo(np.int64).max if part == "test" else end_ms + split.delay_ms
    rows_M = np.arange(*np.searchsorted(events.time_ms_N, (start_ms, end_ms)))
    fraud_M = events.fraud_N(known_ms)[rows_M]
    if fraud_M.sum() < MIN_FRAUDS or fraud_M.all():
        raise InputError(
            f"the {part} split, {_day(start_ms)} to {_day(end_ms - 1)}, has {len(rows_M)} events,"
            f" {int(fraud_M.sum())} of them labelled as fraud: it needs {MIN_FRAUDS} frauds, and"
            " legitimate events"
        )
    users = len(np.unique(events.user_N[rows_M]))
    return _SplitRows(rows_M, fraud_M, round(users * (end_ms - start_ms) / DAY_MS))


def _build_dataset(
    events: LabelledEvents,
    split: DateSplit,
    part: str,
    split_rows: _SplitRows,
    names: list[str],
    on_progress: Progress,
) -> EventDataset:
    rows_M, fraud_M, user_days = split_rows
    weight = 1.0
    if part == "train":
        kept, weight = downsample_legitimate(fraud_M)
        rows_M, fraud_M = rows_M[kept], fraud_M[kept]
    x_MF = events.features(
        rows_M,
        names,
        split.delay_days,
        lambda stage, done, total: on_progress(f"{part} {stage}", done, total),
    )
    return EventDataset(
        LabelledFeatures(x_MF, fraud_M),
        weight,
        events.amount_N[rows_M],
        events.type_N[rows_M],
        events.time_ms_N[rows_M],
        events.user_N[rows_M],
        user_days,
    )


def _evaluate_rules(
    model: FraudModel, rules: RuleSet, names: list[str], dataset: EventDataset
) -> dict[str, Any]:
    """Measures the rules with as many alerts as the model may have."""
    score_M = model.score(dataset.labelled.x_NF[:, list(map(names.index, model.names))])
    suspicion_M = np.array(list(map(suspicion, match_rules(rules, names, dataset, score_M))))
    precision = average_precision_score(dataset.labelled.fraud_N, suspicion_M)
    return {
        "version": rules.version,
        "average_precision": round(float(precision), 4),
        "at": {
            f"budget_{budget:g}": alert_metrics(
                dataset, alerts_within_budget(dataset, suspicion_M, budget)
            )
            for budget in BUDGETS
        },
    }


def _evaluate_logistic(columns: int, train: EventDataset, test: EventDataset) -> dict[str, Any]:
    """Logistic regression on the model's features, log-scaled and standardised.

    Unknown values become the mean.
    """
    regression = make_pipeline(
        FunctionTransformer(lambda x_MF: np.sign(x_MF) * np.log1p(np.abs(x_MF))),
        StandardScaler(),
        SimpleImputer(strategy="constant", fill_value=0.0, keep_empty_features=True),
        # Newton's method needs few steps, and fits well when rows far outnumber features.
        LogisticRegression(C=0.01, solver="newton-cholesky", max_iter=200),
    )
    (x_MF, fraud_M), x_test_MF = train.labelled, test.labelled.x_NF[:, :columns]
    weight_M = np.where(fraud_M, 1.0, train.weight)
    with np.errstate(invalid="ignore"):  # of features that are unknown for all events
        regression.fit(x_MF[:, :columns], fraud_M, logisticregression__sample_weight=weight_M)
        score_M = np.concatenate(
            [
                regression.predict_proba(x_test_MF[first : first + _CHUNK_ROWS])[:, 1]
                for first in range(0, len(x_test_MF), _CHUNK_ROWS)
            ]
        )
    return fit.score_metrics(score_M, test.labelled.fraud_N)


def _ms(day: date) -> int:
    return (day - date(1970, 1, 1)) // timedelta(milliseconds=1)


def _day(time_ms: int) -> date:
    return datetime.fromtimestamp(time_ms / 1000, UTC).date()
