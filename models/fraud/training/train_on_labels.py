"""The model of single events, trained on a shop's own events and the labels given them.

    train                      validation                 test
    |------------------|.......|------------------|.......|------------------|.......|
    train_start        delay   validation_start   delay   test_start         delay   labels' end

Each part is looked at as it could have been looked at when the next one began: a label that was
given later is not known, and the last `delay_days` before that moment are left out, since it was
too early to tell which of their events are frauds. An event of the others that nobody labelled is
legitimate: whoever was robbed had the time to say so. The test's labels are all that there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score

from liveprofile.errors import InputError
from liveprofile.progress import Progress
from liveprofile.rules.rules import Rules
from liveprofile.units import DAY_MS
from models.fraud import logistic
from models.fraud.datasets.labelled_rows import OwnEvents
from models.fraud.datasets.part import Part, sampled
from models.fraud.datasets.simulated import Seen
from models.fraud.model import EventModel
from models.fraud.training import fit
from models.fraud.training.evaluate import asked_features, judge, what_they_find
from models.fraud.training.train_simulated import (
    COSTS,
    FEATURES,
    Costs,
    finished,
    measured_of,
    thresholds_of,
)
from models.profile.data.external_sort import mapped

NAME = "event-risk-own"
LEAST_FRAUDS = 10  # of each part: fewer choose and measure nothing


@dataclass(frozen=True)
class Split:
    """Days are UTC; test_end is the last day of the test."""

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
                    f"{flag} {end}: nothing is left between {start} and the"
                    f" {self.delay_days:g} days before it, whose labels were not known by then"
                )
        if self.test_end < self.test_start:
            raise InputError(f"--test-end {self.test_end}: is before --test-start")

    @property
    def delay_ms(self) -> int:
        return round(self.delay_days * DAY_MS)

    @property
    def spans_ms(self) -> dict[str, tuple[int, int]]:
        """Of each part the first millisecond, and the one behind the last."""
        return {
            "train": (_ms(self.train_start), _ms(self.validation_start) - self.delay_ms),
            "validation": (_ms(self.validation_start), _ms(self.test_start) - self.delay_ms),
            "test": (_ms(self.test_start), _ms(self.test_end) + DAY_MS),
        }

    def check_end(self, told_until_ms: int) -> None:
        """told_until_ms: of the newest event or label. Raises InputError if labels of the test may
        still come."""
        latest_ms = told_until_ms // DAY_MS * DAY_MS + DAY_MS - self.delay_ms
        if self.spans_ms["test"][1] > latest_ms:
            last = _day(latest_ms - DAY_MS)
            raise InputError(
                f"--test-end {self.test_end}: events and labels end on {_day(told_until_ms)}, so"
                f" labels may still come for what is later than {last}, {self.delay_days:g} days"
                " before"
            )


def train_own(
    events: OwnEvents,
    split: Split,
    rules: Rules,
    out: Path | None = None,
    costs: Costs = COSTS,
    settings: Sequence[dict] = tuple(fit.SETTINGS),
    on_progress: Progress = lambda stage, done, total: None,
) -> EventModel:
    """The trained model, written to the folder `out` if one is given. Its `about` tells what it was
    trained on and how it does on the test, beside the rules and logistic regression.

    Raises InputError for a part with too few frauds, or a test whose labels may still come.
    """
    split.check_end(int(max(events.time_ms_N[-1], events.labels.time_ms_L[-1])))
    rows_of = {part: _rows(events, split, part) for part in split.spans_ms}
    names = list(dict.fromkeys([*FEATURES, *asked_features(rules.of("event"))]))
    learnt, validated, of_all = (
        _seen(events, split, part, rows_of[part], asked, on_progress)
        for part, asked in (("train", FEATURES), ("validation", FEATURES), ("test", names))
    )
    tested = _of_model(of_all)
    model = _fitted(learnt, validated, split, settings, on_progress)
    thresholds = thresholds_of(model, validated, costs)
    of_train = rows_of["train"].fraud_M
    model.about.update(
        split=_told(split),
        labels=_counts(events),
        train={"events": len(of_train), "frauds": int(of_train.sum())},
        thresholds=thresholds,
        validation=measured_of(model, validated, thresholds),
        test=measured_of(model, tested, thresholds),
        baselines={
            "rules": _of_rules(model, rules, names, of_all, costs.budgets),
            "logistic_regression": _of_regression(learnt, validated, tested),
        },
    )
    return finished(model, validated, out)


def _fitted(
    learnt: Seen, validated: Seen, split: Split, settings: Sequence[dict], on_progress: Progress
) -> EventModel:
    choice = fit.choose(
        learnt.part, learnt.weight, validated.part, FEATURES, list(settings), on_progress
    )
    calibration = fit.calibrated(choice.margin_N, validated.part.fraud_N)
    return fit.model_of(
        NAME, choice.booster, calibration, learnt.part, FEATURES, split.delay_days,
        {"setting": choice.setting},
    )  # fmt: skip


class _Rows(NamedTuple):
    rows_M: np.ndarray
    fraud_M: np.ndarray
    user_days: int


def _rows(events: OwnEvents, split: Split, part: str) -> _Rows:
    """Raises InputError if there are too few frauds, or nothing else."""
    start_ms, end_ms = split.spans_ms[part]
    known_ms = np.iinfo(np.int64).max if part == "test" else end_ms + split.delay_ms
    rows_M = np.arange(*np.searchsorted(events.time_ms_N, (start_ms, end_ms)))
    fraud_M = events.fraud_N(known_ms)[rows_M]
    if fraud_M.sum() < LEAST_FRAUDS or fraud_M.all():
        raise InputError(
            f"the {part} part, {_day(start_ms)} to {_day(end_ms - 1)}, has {len(rows_M)} events,"
            f" {int(fraud_M.sum())} of them known to be frauds: it needs {LEAST_FRAUDS}, and others"
        )
    users = len(np.unique(events.user_N[rows_M]))
    return _Rows(rows_M, fraud_M, round(users * (end_ms - start_ms) / DAY_MS))


def _seen(
    events: OwnEvents, split: Split, part: str, of_part: _Rows, names: list[str], progress: Progress
) -> Seen:
    rows_M, fraud_M, user_days = of_part
    weight = 1.0
    if part == "train":
        chosen, weight = sampled(fraud_M)
        rows_M, fraud_M = rows_M[chosen], fraud_M[chosen]
    x_MF = events.features(
        rows_M, names, split.delay_days,
        lambda stage, done, total: progress(f"{part} {stage}", done, total),
    )  # fmt: skip
    return Seen(
        Part(x_MF, fraud_M),
        weight,
        events.amount_N[rows_M],
        events.type_N[rows_M],
        events.time_ms_N[rows_M],
        events.user_N[rows_M],
        np.full(len(rows_M), -1),  # nobody tells which frauds belong together
        np.full(len(rows_M), "", object),
        user_days,
    )


def _of_model(seen: Seen) -> Seen:
    """Without the columns that only rules ask for, which stand behind the model's."""
    x_MF = mapped((len(seen.part.x_NF), len(FEATURES)), np.float32)
    x_MF[:] = seen.part.x_NF[:, : len(FEATURES)]
    return seen._replace(part=seen.part._replace(x_NF=x_MF))


def _of_rules(
    model: EventModel, rules: Rules, names: list[str], seen: Seen, budgets: Sequence[float]
) -> dict[str, Any]:
    """What the rules as they are find: each, all, and beside the model with so many alerts."""
    judgement = judge(model, rules, names, seen)
    found = what_they_find(seen, judgement, rules.of("event"), budgets)
    precision = average_precision_score(seen.part.fraud_N, judgement.suspicion_M)
    return {
        "version": rules.version,
        "average_precision": round(float(precision), 4),
        "at": found["at"],
        "of_rules": found["of_rules"],
    }


def _of_regression(learnt: Seen, validated: Seen, tested: Seen) -> dict[str, Any]:
    regression = logistic.chosen(learnt.part, learnt.weight, validated.part)
    return fit.measured(regression.score(tested.part.x_NF), tested.part.fraud_N)


def _told(split: Split) -> dict[str, Any]:
    days = ("train_start", "validation_start", "test_start", "test_end")
    return {name: str(getattr(split, name)) for name in days} | {"delay_days": split.delay_days}


def _counts(events: OwnEvents) -> dict[str, int]:
    labels = events.labels
    known = len(np.unique(events.label_N[events.label_N >= 0]))
    unknown = len(labels.event_id) - known
    return {"given": len(labels.event_L), "events": known, "of_unknown_events": unknown}


def _ms(day: date) -> int:
    return (day - date(1970, 1, 1)) // timedelta(milliseconds=1)


def _day(time_ms: int) -> date:
    return datetime.fromtimestamp(time_ms / 1000, UTC).date()
