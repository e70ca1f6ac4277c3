"""Features, split and measures of models.fraud, each against a plain computation of the same."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from liveprofile.errors import InputError
from liveprofile.units import DAY_MS
from models.fraud.card_transactions import data as fraud
from models.fraud.card_transactions.data import Period, Transactions
from models.fraud.card_transactions.features import HANDBOOK, NEVER_DAYS, features

START = (date(2018, 4, 1) - date(1970, 1, 1)).days
DELAY = 3


def transactions(count: int = 1_500, days: int = 50, seed: int = 7) -> Transactions:
    """Terminals go bad for ten days; some cards spend far more than usual for a week."""
    random = np.random.default_rng(seed)
    time_ms = np.sort(random.integers(START * DAY_MS, (START + days) * DAY_MS, count))
    card, terminal = random.integers(0, 40, count), random.integers(0, 25, count)
    amount = np.round(random.lognormal(3, 0.3, count) * (1 + card % 5), 2)
    day = time_ms // DAY_MS - START
    bad = (day // 10 % 25 == terminal) | (day // 10 % 25 == terminal - 10)
    leaked = (day // 7 == card % 40) & (random.random(count) < 0.5)
    return Transactions(time_ms, card, terminal, np.where(leaked, 5 * amount, amount), bad | leaked)


@pytest.fixture(scope="module")
def made() -> Transactions:
    return transactions()


def test_features_are_what_a_loop_finds(made: Transactions) -> None:
    found = features(made, DELAY)
    values = dict(zip(found.names, found.values_NF.T, strict=True))
    time_ms, delay_ms = made.time_ms_N, DELAY * DAY_MS
    for row in range(0, len(time_ms), 37):
        now_ms = time_ms[row]
        for name, key in (("card", made.card_N), ("terminal", made.terminal_N)):
            same = key == key[row]
            before = same & (time_ms < now_ms)
            known = same & (time_ms <= now_ms - delay_ms)
            for days in (1, 7, 30):
                lately = same & (time_ms <= now_ms) & (time_ms > now_ms - days * DAY_MS)
                labelled = known & (time_ms > now_ms - delay_ms - days * DAY_MS)
                expected = {
                    "count": lately.sum(),
                    "mean": made.amount_N[lately].mean(),
                    "labelled": labelled.sum(),
                    "risk": made.fraud_N[labelled].mean() if labelled.any() else 0.0,
                }
                for what, value in expected.items():
                    assert values[f"{name}_{what}_{days}d"][row] == pytest.approx(value, rel=1e-4)
            assert values[f"{name}_earlier"][row] == before.sum()
            usual = made.amount_N[before].mean() if before.any() else 0.0
            assert values[f"{name}_usual"][row] == pytest.approx(usual, rel=1e-4, abs=1e-4)
            frauds_ms = time_ms[known & made.fraud_N]
            last = (now_ms - frauds_ms.max()) / DAY_MS if len(frauds_ms) else NEVER_DAYS
            assert values[f"{name}_days_since_last_fraud"][row] == pytest.approx(last, rel=1e-4)
            spree_ms = frauds_ms[frauds_ms > now_ms - delay_ms - 28 * DAY_MS]
            first = (now_ms - spree_ms.min()) / DAY_MS if len(spree_ms) else NEVER_DAYS
            assert values[f"{name}_days_since_first_fraud"][row] == pytest.approx(first, rel=1e-4)


def test_nothing_of_the_future_enters(made: Transactions) -> None:
    """Not a later transaction, and not a label that is not known yet."""
    row = 900
    now_ms = made.time_ms_N[row]
    later, unknown = made.time_ms_N > now_ms, made.time_ms_N > now_ms - DELAY * DAY_MS
    other = made._replace(
        amount_N=np.where(later, 9_999.0, made.amount_N),
        terminal_N=np.where(later, 0, made.terminal_N),
        fraud_N=np.where(unknown, ~made.fraud_N, made.fraud_N),
    )
    assert np.array_equal(
        features(made, DELAY).values_NF[row], features(other, DELAY).values_NF[row]
    )


def test_without_a_delay_the_own_label_is_still_unknown(made: Transactions) -> None:
    other = made._replace(fraud_N=made.fraud_N.copy())
    other.fraud_N[900] ^= True
    assert np.array_equal(features(made, 0).values_NF[900], features(other, 0).values_NF[900])


def test_the_handbooks_features_are_among_them(made: Transactions) -> None:
    assert features(made, DELAY).only(HANDBOOK).values_NF.shape == (len(made.time_ms_N), 15)


def test_a_card_known_to_be_compromised_is_not_tested(made: Transactions) -> None:
    period = Period(START + 20, START + 26, DELAY, START + 30, START + 33)
    train, test = fraud.split(made, period)
    day = made.day_N
    assert set(day[train]) == set(range(START + 20, START + 27))
    expected = []
    for row in np.flatnonzero((day >= START + 30) & (day <= START + 33)):
        known_until = day[row] - DELAY - 1
        known = (day >= START + 20) & (day <= known_until) & made.fraud_N
        if not (known & (made.card_N == made.card_N[row])).any():
            expected.append(row)
    assert test.tolist() == expected
    assert 0 < len(test) < ((day >= START + 30) & (day <= START + 33)).sum()


def test_card_precision_counts_a_card_once() -> None:
    day_ms = np.array([0, 0, 0, 0, 1, 1, 1]) * DAY_MS
    card = np.array([1, 1, 2, 3, 1, 2, 4])
    is_fraud = np.array([False, True, False, True, True, False, True])
    score = np.array([0.9, 0.1, 0.8, 0.2, 0.9, 0.1, 0.3])
    data = Transactions(day_ms, card, card, score, is_fraud)
    rows = np.arange(7)
    # Day 0: cards 1 (found, by its other transaction) and 2. Day 1: 1 is blocked; 4 found, and 2.
    assert fraud.card_precision(data, rows, score, 2) == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_the_earlier_period_ends_with_the_training() -> None:
    period = Period.of(date(2018, 7, 25), date(2018, 7, 31), 7, date(2018, 8, 8), date(2018, 8, 14))
    expected = Period.of(
        date(2018, 7, 11), date(2018, 7, 17), 7, date(2018, 7, 25), date(2018, 7, 31)
    )
    assert period.earlier() == expected


@pytest.mark.parametrize(
    ("days", "message"),
    [((3, 2, 10, 12), "ends before it starts"), ((1, 5, 8, 12), "are known 7 days later")],
)
def test_periods_that_make_no_sense(days: tuple[int, ...], message: str) -> None:
    train_start, train_end, test_start, test_end = (date(2018, 4, day) for day in days)
    with pytest.raises(InputError, match=message):
        Period.of(train_start, train_end, 7, test_start, test_end)


def as_file(data: Transactions, file: Path, **names: str) -> Path:
    names = fraud.Columns()._replace(**names)
    table = pa.table(
        {
            names.id: np.arange(len(data.time_ms_N)),
            names.time: pa.array(data.time_ms_N, pa.timestamp("ms")),
            names.card: data.card_N,
            names.terminal: data.terminal_N,
            names.amount: data.amount_N,
            names.fraud: data.fraud_N.astype(np.int64),
        }
    )
    pq.write_table(table.take(np.random.default_rng(1).permutation(len(table))), file)
    return file


def test_a_file_is_read_in_order_of_time(made: Transactions, tmp_path: Path) -> None:
    found = fraud.read(as_file(made, tmp_path / "t.parquet"))
    for column, expected in zip(found, made, strict=True):
        assert np.array_equal(column, expected)


def test_a_missing_column_is_one_line(made: Transactions, tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"TX_DATETIME": [1]}), file)
    with pytest.raises(InputError, match="column TRANSACTION_ID is missing"):
        fraud.read(file)


def test_the_command_ends_with_its_figures(tmp_path: Path) -> None:
    file = as_file(transactions(6_000), tmp_path / "t.parquet")
    result = CliRunner().invoke(
        app,
        [
            *("train", "fraud", "--data", str(file), "--delay-days", "3"),
            *("--train-start", "2018-04-25", "--train-end", "2018-05-04"),
            *("--test-start", "2018-05-08", "--test-end", "2018-05-17"),
            *("--out", str(tmp_path / "model.json")),
        ],
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    names = {"roc_auc", "average_precision", "card_precision_at_100"}
    for one in (report, *report["baselines"].values()):
        assert set(one["test"]) == set(one["validation"]) == names
    assert set(report["baselines"]) == {"logistic_regression", "random_forest", "xgboost"}
    assert report["test"]["roc_auc"] > 0.7
    assert (tmp_path / "model.json").is_file()
