"""RelBench rel-hm: the published tables as events and moments, and the measure."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from intake.files.replay import open_source
from lab.public_data import rel_hm
from liveprofile.errors import InputError
from liveprofile.units import DAY_MS
from models.profile.training.train import train
from models.trained_users import user_key
from tests.support.paths import ROOT
from tests.unit.models.profile.miniature import FIRST_DAY_MS, MINIATURE, write_rows
from tests.unit.models.profile.synthetic_streams import make_streams

SEED_DAY = datetime(2020, 9, 14, tzinfo=UTC)
SEED_MS = int(SEED_DAY.timestamp() * 1000)


def write_task(folder: Path, part: str, day: datetime, users: list, churned: list) -> None:
    tasks = folder / "tasks" / "user-churn"
    tasks.mkdir(parents=True, exist_ok=True)
    table = {"timestamp": [day.replace(tzinfo=None)] * len(users), "customer_id": users}
    pd.DataFrame(table | {"churn": churned}).to_parquet(tasks / f"{part}.parquet")


def test_transactions_become_purchases_of_an_article_and_its_type(tmp_path: Path) -> None:
    day = SEED_DAY.replace(tzinfo=None)
    transactions = {
        "t_dat": [day, day], "customer_id": [7, 7], "article_id": [1, 0],
        "price": [0.0254, 0.05], "sales_channel_id": [2, 1],
    }  # fmt: skip
    articles = {
        "article_id": [0, 1],
        "product_type_name": ["Vest top", "Bra"],
        "colour": ["a", "b"],
    }
    pd.DataFrame(transactions).to_parquet(tmp_path / "transactions.parquet")
    pd.DataFrame(articles).to_parquet(tmp_path / "article.parquet")
    source = tmp_path / "transactions.parquet"
    batches = open_source(source, ROOT / "mappings" / "rel_hm.toml")
    events = [json.loads(value) for events in batches for value in events.values]
    assert events[0] == {
        "event_id": "7-1-0",
        "user_id": "7",
        "event_type": "purchase",
        "event_time": SEED_MS,
        "item_id": "1",
        "category_id": "Bra",
        "price": 0.0254,
        "channel": "2",
    }
    assert [event["category_id"] for event in events] == ["Bra", "Vest top"]


def test_a_row_knows_its_own_day_and_nothing_later() -> None:
    """User 0 buys on the row's day and the day after, user 1 a week before it."""
    time_ms = SEED_MS + np.array([-7 * DAY_MS, 0, DAY_MS])
    streams = make_streams(
        np.array([1, 0, 0]), time_ms, np.zeros(3, int), np.ones(3), np.ones(3, int)
    )
    keys = np.array([user_key("70").rstrip(b"\0"), user_key("71").rstrip(b"\0")], "S16")
    streams = streams._replace(user_key_U=keys)
    seed_day = np.array([SEED_DAY.date()] * 2, "datetime64[D]")
    task = rel_hm.Task(["71", "70"], seed_day, np.zeros(2, bool))
    moments = rel_hm.moments_of(streams, task)
    assert (moments.at_ms_M == SEED_MS + DAY_MS).all()
    assert streams.time_ms_N[streams.first_W[moments.window_M]].tolist() == [time_ms[0], time_ms[1]]
    with pytest.raises(InputError, match="no purchases of customer 72"):
        rel_hm.moments_of(streams, task._replace(user_M=["71", "72"]))
    early = task._replace(day_M=seed_day - np.timedelta64(1, "D"))
    with pytest.raises(InputError, match="no purchase of customer 70 up to 2020-09-13"):
        rel_hm.moments_of(streams, early)


def test_a_task_table_without_labels_or_rows_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"user-churn/train\.parquet"):
        rel_hm.read_task(tmp_path, "train")
    write_task(tmp_path, "test", SEED_DAY, [1], [1])
    file = tmp_path / "tasks" / "user-churn" / "test.parquet"
    task = rel_hm.read_task(tmp_path, "test")
    assert (task.user_M, task.churned_M.tolist()) == (["1"], [True])
    pd.read_parquet(file).drop(columns="churn").to_parquet(file)
    with pytest.raises(InputError, match="no column 'churn'; it has timestamp, customer_id"):
        rel_hm.read_task(tmp_path, "test")
    write_task(tmp_path, "test", SEED_DAY, [], [])
    with pytest.raises(InputError, match="no rows"):
        rel_hm.read_task(tmp_path, "test")


def test_stored_churn_ranks_those_who_stopped_first(tmp_path: Path) -> None:
    """Users from 12 on buy nothing from day 20 on; the others go on every second day."""
    rows = write_rows(tmp_path / "rows", days=70)
    recipe = dataclasses.replace(MINIATURE, epochs=1, curve_moments=48, curve_epochs=8)
    train(recipe, rows, tmp_path / "model")
    users = [f"u{number}" for number in range(16)]
    churned = [int(number >= 12) for number in range(16)]
    for part, day in (("train", 50), ("val", 51), ("test", 52)):
        at = datetime.fromtimestamp(FIRST_DAY_MS / 1000, UTC) + timedelta(days=day)
        write_task(tmp_path, part, at, users, churned)
    report = rel_hm.measure(tmp_path, rows, tmp_path / "model", lambda *_: None)
    assert report["users"] == 16
    for part in ("val", "test"):
        assert (report[part]["rows"], report[part]["churned"]) == (16, 4)
        assert report[part]["model_auc"] == 1.0
        assert 0 <= report[part]["xgboost_auc"] <= 1
