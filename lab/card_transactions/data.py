"""Card transactions: reading, train/test split by time with delayed labels, ranking metrics.

The protocol is chapter 3 of Le Borgne et al., "Reproducible Machine Learning for Credit Card Fraud
Detection - Practical Handbook" (2022): a label is known `delay_days` after its transaction, and the
test excludes cards that are known to be compromised.

Shape suffixes: N transactions, M of them in a split.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.metrics import average_precision_score, roc_auc_score

from liveprofile.errors import InputError
from liveprofile.units import DAY_MS

EPOCH = date(1970, 1, 1)
# At the start of the test, a fraud of so many days before the newest known label excludes its card.
# In the published split that is the whole training week. A longer training period does not exclude
# cards that were compromised months ago.
COMPROMISED_DAYS = 7
TOP_CARDS = 100  # as many as investigators can check in a day


class ColumnNames(NamedTuple):
    """Column names of a transactions file. The defaults are the handbook's."""

    id: str = "TRANSACTION_ID"
    time: str = "TX_DATETIME"
    card: str = "CUSTOMER_ID"
    terminal: str = "TERMINAL_ID"
    amount: str = "TX_AMOUNT"
    fraud: str = "TX_FRAUD"


class Transactions(NamedTuple):
    """N transactions sorted by time, then id."""

    time_ms_N: np.ndarray  # int64, UTC
    card_N: np.ndarray  # int64 codes from 0
    terminal_N: np.ndarray
    amount_N: np.ndarray  # float64, in the file's currency
    fraud_N: np.ndarray  # bool

    @property
    def day_N(self) -> np.ndarray:
        """Days since 1970-01-01 UTC."""
        return self.time_ms_N // DAY_MS


class TrainTestPeriod(NamedTuple):
    """Train and test periods in days since 1970-01-01. Both ends are inclusive."""

    train_start: int
    train_end: int
    delay_days: int
    test_start: int
    test_end: int

    @classmethod
    def from_dates(
        cls, train_start: date, train_end: date, delay_days: int, test_start: date, test_end: date
    ) -> TrainTestPeriod:
        """Raises InputError if a period is empty, or if a training label becomes known too late."""
        days = [(day - EPOCH).days for day in (train_start, train_end, test_start, test_end)]
        if days[0] > days[1] or days[2] > days[3]:
            raise InputError("a period ends before it starts")
        if days[1] + delay_days >= days[2]:
            raise InputError(
                f"the labels of {train_end} are known {delay_days} days later, which is not before"
                f" {test_start}: let the training end earlier or the test start later"
            )
        return cls(days[0], days[1], delay_days, days[2], days[3])

    def validation_period(self) -> TrainTestPeriod:
        """Returns the period to choose hyperparameters on.

        It is this period moved back until its test ends where this training ends.
        """
        back = self.test_end - self.train_end
        return TrainTestPeriod(
            self.train_start - back,
            self.train_end - back,
            self.delay_days,
            self.test_start - back,
            self.test_end - back,
        )


class RankingMetrics(NamedTuple):
    """How well scores rank frauds above legitimate transactions."""

    roc_auc: float
    average_precision: float
    card_precision_at_100: float


def read_transactions(file: Path, columns: ColumnNames = ColumnNames()) -> Transactions:  # noqa: B008
    """Reads a Parquet file. Raises InputError naming a missing or unusable column."""
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"transactions {file}: {str(error).splitlines()[0]}") from None
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise InputError(f"transactions {file}: column {missing[0]} is missing")
    for name in columns:
        if table[name].null_count:
            raise InputError(f"transactions {file}: column {name} has empty values")
    try:
        time_ms = table[columns.time].cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
        amount = table[columns.amount].cast(pa.float64())
        fraud = table[columns.fraud].cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise InputError(f"transactions {file}: {str(error).splitlines()[0]}") from None
    order = np.lexsort((table[columns.id].to_numpy(), time_ms.to_numpy()))
    return Transactions(
        time_ms.to_numpy()[order],
        _codes(table[columns.card])[order],
        _codes(table[columns.terminal])[order],
        amount.to_numpy()[order],
        fraud.to_numpy()[order] != 0,
    )


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    return np.unique(column.to_numpy(), return_inverse=True)[1].astype(np.int64)


def train_test_rows(data: Transactions, period: TrainTestPeriod) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows to train on and the rows to test on.

    The test excludes transactions of cards that are known to be compromised. Raises InputError if
    one of both has no fraud, or no legitimate transaction.
    """
    day_N = data.day_N
    train = np.flatnonzero((day_N >= period.train_start) & (day_N <= period.train_end))
    first_known = period.test_start - period.delay_days - COMPROMISED_DAYS
    test_days = []
    for day in range(period.test_start, period.test_end + 1):
        known = (day_N >= first_known) & (day_N < day - period.delay_days) & data.fraud_N
        rows = np.flatnonzero(day_N == day)
        test_days.append(rows[~np.isin(data.card_N[rows], data.card_N[known])])
    test = np.concatenate(test_days)
    for name, rows in (("training", train), ("test", test)):
        if len(np.unique(data.fraud_N[rows])) < 2:
            raise InputError(
                f"the {name} period has {len(rows)} transactions, of which"
                f" {int(data.fraud_N[rows].sum())} are frauds: it needs both kinds"
            )
    return train, test


def ranking_metrics(data: Transactions, rows_M: np.ndarray, score_M: np.ndarray) -> RankingMetrics:
    """Measures scores of the test rows of `train_test_rows`. A higher score is a likelier fraud."""
    fraud_M = data.fraud_N[rows_M]
    return RankingMetrics(
        float(roc_auc_score(fraud_M, score_M)),
        float(average_precision_score(fraud_M, score_M)),
        card_precision_at_k(data, rows_M, score_M, TOP_CARDS),
    )


def card_precision_at_k(
    data: Transactions, rows_M: np.ndarray, score_M: np.ndarray, k: int
) -> float:
    """Returns card precision@k: the mean over days of the share of frauds among the top k cards.

    The score of a card is the highest of its transactions on that day. A compromised card in the
    top k is blocked and excluded on later days. Ties are ordered by card.
    """
    day_M, card_M, fraud_M = data.day_N[rows_M], data.card_N[rows_M], data.fraud_N[rows_M]
    blocked = np.empty(0, np.int64)
    shares = []
    for day in np.unique(day_M):
        today = (day_M == day) & ~np.isin(card_M, blocked)
        cards, card_index = np.unique(card_M[today], return_inverse=True)
        highest = np.full(len(cards), -np.inf)
        np.maximum.at(highest, card_index, score_M[today])
        compromised = np.bincount(card_index, fraud_M[today], len(cards)) > 0
        top = np.argsort(-highest, kind="stable")[:k]
        found = cards[top[compromised[top]]]
        blocked = np.concatenate([blocked, found])
        shares.append(len(found) / k)
    return float(np.mean(shares))
