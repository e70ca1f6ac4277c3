"""The Fraud Handbook's transactions as events: a card is a user, a terminal a shop.

Settings and calibration by an earlier period of the same shape (models.fraud.card_transactions.data), whose labels
are all known by the end of the training; the test period is scored once, by what was chosen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from liveprofile.features.entity import NAMES
from liveprofile.features.entity.columns import letter
from liveprofile.progress import Progress
from liveprofile.units import DAY_MS
from models.fraud.card_transactions.data import Period, Transactions, measure, split
from models.fraud.datasets.entity_history import KEEP, Events, History, Labels
from models.fraud.datasets.part import Part, sampled
from models.fraud.model import probability
from models.fraud.sequence.fit import SequenceRecipe
from models.fraud.sequence.network import Shape
from models.fraud.training.fit import calibrated, fit, model_of, reliability
from models.fraud.training.stacking import Examples, applied, learn, stack

SEQUENCE = SequenceRecipe(Shape(sources=("shop", "user")))
# The other columns of an event are missing here, and so are all features of these owners.
FEATURES = ["amount", "hour", "weekend", "night"]
FEATURES += [name for name in NAMES if name.split("_")[0] in ("user", "shop")]


def history(data: Transactions, delay_days: float, keep: int = KEEP) -> History:
    """Each fraud is labelled `delay_days` after it; at what is no fraud nobody looks."""
    count = len(data.time_ms_N)
    events = Events(
        data.time_ms_N,
        np.full(count, letter("purchase"), np.uint8),
        data.amount_N,
        np.arange(1, count + 1, dtype=np.int32),
        (data.card_N + 1).astype(np.int32),
        {"shop": (data.terminal_N + 1).astype(np.int32)},
    )
    frauds = np.flatnonzero(data.fraud_N)
    known_ms = data.time_ms_N[frauds] + round(delay_days * DAY_MS)
    return History(events, Labels(frauds, np.ones(len(frauds), bool), known_ms), keep)


def train(
    data: Transactions,
    period: Period,
    out: Path | None = None,
    on_progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """The report: what was chosen, and `validation` and `test` scores as of models.fraud.card_transactions.train.

    `out`: the folder to write the model to. Raises InputError for a period without frauds.
    """
    lists = history(data, period.delay_days)
    earlier_train, validation_rows = split(data, period.earlier())
    train_rows, test_rows = split(data, period)

    def examples(rows: np.ndarray) -> Examples:
        x_NF = lists.features(rows, FEATURES, period.delay_days, on_progress)
        tokens = lists.tokens(rows, SEQUENCE.shape.sources)
        card_N = data.card_N[rows]
        return Examples(Part(x_NF, data.fraud_N[rows]), tokens, card_N, card_N)

    def learnt(rows: np.ndarray) -> tuple[Examples, float]:
        drawn, weight = sampled(data.fraud_N[rows])
        return examples(rows[drawn]), weight

    better, chosen_by = stack(
        *learnt(earlier_train),
        examples(validation_rows),
        FEATURES,
        SEQUENCE,
        on_progress=on_progress,
    )
    choice, sequence = better.choice, better.sequence
    calibration = calibrated(choice.margin_N, better.validation.fraud_N)
    seen, weight = learnt(train_rows)
    part, test = seen.part, examples(test_rows)
    if sequence is not None:
        part, sequence = learn(seen, SEQUENCE, on_progress)
        test = test._replace(part=applied(test, sequence))
    booster = fit(part, weight, better.names, choice.setting)
    report = {
        "settings": choice.setting,
        "chosen_by": chosen_by,
        "validation": measure(data, validation_rows, choice.margin_N)._asdict(),
    }
    model = model_of(
        "fraud-handbook", booster, calibration, part, better.names, float(period.delay_days),
        report, sequence,
    )  # fmt: skip
    test = test.part
    log_odds_N = model.log_odds(test.x_NF)
    report["test"] = measure(data, test_rows, log_odds_N)._asdict()
    report["reliability"] = reliability(probability(log_odds_N), test.fraud_N)
    model.about.update(report)
    if out is not None:
        model.save(out)
    return {
        "version": model.version,
        "transactions": {"train": len(train_rows), "test": len(test_rows)},
        "frauds": {
            "train": int(data.fraud_N[train_rows].sum()), "test": int(test.fraud_N.sum())
        },
        **report,
    }  # fmt: skip
