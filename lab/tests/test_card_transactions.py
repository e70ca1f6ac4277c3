"""Handbook features, time split and ranking metrics against plain Python, and the train command."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from lab.__main__ import app
from lab.card_transactions.baselines import BASELINES
from lab.card_transactions.data import (
    ColumnNames,
    TrainTestPeriod,
    Transactions,
    card_precision_at_k,
    read_transactions,
    train_test_rows,
)
from lab.card_transactions.features import FEATURE_NAMES, handbook_features
from lab.card_transactions.train_handbook import build_history
from lab.tests import card_transactions
from lab.tests.card_transactions import DELAY_DAYS, START_DAY
from liveprofile.errors import InputError
from liveprofile.units import DAY_MS
from models.fraud.model import FraudModel
from tests.support.paths import SHARED_DATA

pytestmark = pytest.mark.slow

HANDBOOK_FILE = SHARED_DATA.joinpath("fraud_handbook/transactions_2018-04-01_to_2018-08-14.parquet")


def make_transactions(count: int = 1_500) -> Transactions:
    return Transactions(*card_transactions.make_transactions(count))


@pytest.fixture(scope="module")
def data() -> Transactions:
    return make_transactions()


def test_features_equal_a_plain_python_computation(data: Transactions) -> None:
    x_NF = handbook_features(data, DELAY_DAYS)
    assert x_NF.shape == (len(data.time_ms_N), 15)
    columns = dict(zip(FEATURE_NAMES, x_NF.T, strict=True))
    time_ms, delay_ms = data.time_ms_N, DELAY_DAYS * DAY_MS
    for row in range(0, len(time_ms), 37):
        now_ms = time_ms[row]
        same_card, same_terminal = (key == key[row] for key in (data.card_N, data.terminal_N))
        for days in (1, 7, 30):
            in_window = (time_ms <= now_ms) & (time_ms > now_ms - days * DAY_MS)
            known_ms = now_ms - delay_ms
            labelled = same_terminal & (time_ms <= known_ms) & (time_ms > known_ms - days * DAY_MS)
            expected = {
                f"card_count_{days}d": (same_card & in_window).sum(),
                f"card_mean_{days}d": data.amount_N[same_card & in_window].mean(),
                f"terminal_count_{days}d": (same_terminal & in_window).sum(),
                f"terminal_risk_{days}d": data.fraud_N[labelled].mean() if labelled.any() else 0.0,
            }
            for name, value in expected.items():
                assert columns[name][row] == pytest.approx(value, rel=1e-4)


def test_later_transactions_and_unknown_labels_do_not_change_features(data: Transactions) -> None:
    row = 900
    now_ms = data.time_ms_N[row]
    later, unknown = data.time_ms_N > now_ms, data.time_ms_N > now_ms - DELAY_DAYS * DAY_MS
    changed = data._replace(
        amount_N=np.where(later, 9_999.0, data.amount_N),
        terminal_N=np.where(later, 0, data.terminal_N),
        fraud_N=np.where(unknown, ~data.fraud_N, data.fraud_N),
    )
    assert np.array_equal(
        handbook_features(data, DELAY_DAYS)[row], handbook_features(changed, DELAY_DAYS)[row]
    )


def test_own_label_does_not_change_features_without_a_delay(data: Transactions) -> None:
    changed = data._replace(fraud_N=data.fraud_N.copy())
    changed.fraud_N[900] ^= True
    assert np.array_equal(handbook_features(data, 0)[900], handbook_features(changed, 0)[900])


def test_cards_known_to_be_compromised_are_excluded_from_the_test(data: Transactions) -> None:
    period = TrainTestPeriod(
        START_DAY + 20, START_DAY + 26, DELAY_DAYS, START_DAY + 30, START_DAY + 33
    )
    train, test = train_test_rows(data, period)
    day = data.day_N
    assert set(day[train]) == set(range(START_DAY + 20, START_DAY + 27))
    in_test_period = (day >= START_DAY + 30) & (day <= START_DAY + 33)
    expected = []
    for row in np.flatnonzero(in_test_period):
        known_until = day[row] - DELAY_DAYS - 1
        known = (day >= START_DAY + 20) & (day <= known_until) & data.fraud_N
        if not (known & (data.card_N == data.card_N[row])).any():
            expected.append(row)
    assert test.tolist() == expected
    assert 0 < len(test) < in_test_period.sum()


def test_card_precision_counts_a_card_once() -> None:
    day_ms = np.array([0, 0, 0, 0, 1, 1, 1]) * DAY_MS
    card = np.array([1, 1, 2, 3, 1, 2, 4])
    is_fraud = np.array([False, True, False, True, True, False, True])
    score = np.array([0.9, 0.1, 0.8, 0.2, 0.9, 0.1, 0.3])
    data = Transactions(day_ms, card, card, score, is_fraud)
    rows = np.arange(7)
    # Day 0: the top cards are 1 (compromised by its other transaction) and 2. Day 1: card 1 is
    # blocked, so the top cards are 4 (compromised) and 2.
    assert card_precision_at_k(data, rows, score, 2) == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_validation_period_ends_with_the_training() -> None:
    period = TrainTestPeriod.from_dates(
        date(2018, 7, 25), date(2018, 7, 31), 7, date(2018, 8, 8), date(2018, 8, 14)
    )
    expected = TrainTestPeriod.from_dates(
        date(2018, 7, 11), date(2018, 7, 17), 7, date(2018, 7, 25), date(2018, 7, 31)
    )
    assert period.validation_period() == expected


@pytest.mark.parametrize(
    ("days", "message"),
    [((3, 2, 10, 12), "ends before it starts"), ((1, 5, 8, 12), "are known 7 days later")],
)
def test_invalid_period_is_rejected(days: tuple[int, ...], message: str) -> None:
    train_start, train_end, test_start, test_end = (date(2018, 4, day) for day in days)
    with pytest.raises(InputError, match=message):
        TrainTestPeriod.from_dates(train_start, train_end, 7, test_start, test_end)


def test_shuffled_file_is_read_in_order_of_time(data: Transactions, tmp_path: Path) -> None:
    read = read_transactions(write_transactions(data, tmp_path / "t.parquet"))
    for column, expected in zip(read, data, strict=True):
        assert np.array_equal(column, expected)


def test_missing_column_is_named(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"TX_DATETIME": [1]}), file)
    with pytest.raises(InputError, match="column TRANSACTION_ID is missing"):
        read_transactions(file)


def test_train_command_prints_metrics_of_model_and_baselines(tmp_path: Path) -> None:
    file = write_transactions(make_transactions(6_000), tmp_path / "t.parquet", amount="price")
    arguments = (
        *("cards", "train", str(file), "--delay-days", "3"),
        *("--train-start", "2018-04-25", "--train-end", "2018-05-04"),
        *("--test-start", "2018-05-08", "--test-end", "2018-05-17"),
    )
    out = tmp_path / "model"
    result = CliRunner().invoke(app, [*arguments, "--column", "amount=price", "--out", str(out)])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["recipe"] == "event-risk-handbook"
    with_job_features = report["baselines_with_features_of_the_job"]
    assert set(report["baselines"]) == set(with_job_features) == set(BASELINES)
    assert with_job_features != report["baselines"]
    for measured in (report, *report["baselines"].values(), *with_job_features.values()):
        for split in ("validation", "test"):
            assert set(measured[split]) == {
                "roc_auc",
                "average_precision",
                "card_precision_at_100",
            }
    assert report["test"]["roc_auc"] > 0.7
    assert FraudModel.load(out).version == report["version"]
    wrong = CliRunner().invoke(app, [*arguments, "--column", "colour=red"])
    assert isinstance(wrong.exception, InputError) and "colour=red" in str(wrong.exception)


def write_transactions(data: Transactions, file: Path, **column_names: str) -> Path:
    """Writes a Parquet file with the rows in random order."""
    names = ColumnNames()._replace(**column_names)
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


def assert_handbook(data: Transactions, delay_days: int, rows: np.ndarray) -> None:
    expected_NF = handbook_features(data, delay_days)[rows]
    names = {"amount": "amount", "weekend": "weekend", "night": "night"}
    for days in (1, 7, 30):
        names |= {
            f"card_count_{days}d": f"user_purchases_{days}d",
            f"card_mean_{days}d": f"user_mean_amount_{days}d",
            f"terminal_count_{days}d": f"shop_purchases_{days}d",
            f"terminal_risk_{days}d": f"shop_risk_{days}d",
        }
    assert set(names) == set(FEATURE_NAMES)
    found = build_history(data, delay_days, keep=1_000).features(
        rows, list(names.values()), delay_days
    )
    for theirs, ours_N in zip(names, found.T, strict=True):
        expected_N = expected_NF[:, FEATURE_NAMES.index(theirs)]
        np.testing.assert_allclose(ours_N, expected_N, rtol=1e-5, atol=1e-5, err_msg=theirs)


def test_handbook_features_match_on_synthetic_transactions() -> None:
    data = make_transactions()
    assert_handbook(data, DELAY_DAYS, np.arange(0, len(data.time_ms_N), 3))


def test_handbook_features_match_on_handbook_data() -> None:
    if not HANDBOOK_FILE.is_file():
        pytest.skip(f"needs {HANDBOOK_FILE}")
    data = read_transactions(HANDBOOK_FILE)
    few = np.flatnonzero(data.card_N % 20 == 0)
    few_cards = Transactions(*(column_N[few] for column_N in data))
    assert_handbook(few_cards, 7, np.arange(40_000, len(few), 41))
