"""Rosbank: the published file as events, its labels, and classifiers on stored profiles."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from intake.files.replay import open_source
from lab.public_data import rosbank
from liveprofile.errors import InputError
from models.profile.training.train import train
from models.profile.user_features import FEATURE_NAMES
from models.trained_users import user_key
from tests.support.paths import ROOT
from tests.unit.models.profile.miniature import MINIATURE, write_rows

TRAIN_CSV = """PERIOD,cl_id,MCC,channel_type,currency,TRDATETIME,amount,trx_category,target_flag,\
target_sum
01/10/2017,0,5200,,810,21OCT17:00:00:00,5023.0,POS,0,0.0
01/10/2017,0,6011,,810,12OCT17:12:24:07,20000.0,DEPOSIT,0,0.0
01/04/2017,10,6011,type1,978,02APR17:00:00:00,10.5,WD_ATM_ROS,1,24.0
"""


@pytest.fixture
def train_csv(tmp_path: Path) -> Path:
    file = tmp_path / "train.csv"
    file.write_text(TRAIN_CSV)
    return file


def test_transactions_become_purchases_without_the_label(train_csv: Path) -> None:
    batches = open_source(train_csv, ROOT / "mappings" / "rosbank.toml")
    events = [json.loads(value) for events in batches for value in events.values]
    time = datetime(2017, 10, 12, 12, 24, 7, tzinfo=UTC)
    assert events[1] == {
        "event_id": "0-1",
        "user_id": "0",
        "event_type": "purchase",
        "event_time": int(time.timestamp() * 1000),
        "item_id": "DEPOSIT",
        "category_id": "6011",
        "amount": 20000.0,
    }
    assert [event["user_id"] for event in events] == ["0", "0", "10"]
    assert events[2]["channel"] == "type1"


def test_labels_are_one_a_client(train_csv: Path) -> None:
    assert rosbank.read_labels(train_csv).to_dict() == {0: 0, 10: 1}
    train_csv.write_text(TRAIN_CSV.replace("DEPOSIT,0", "DEPOSIT,1"))
    with pytest.raises(InputError, match="client 0 has two values of target_flag"):
        rosbank.read_labels(train_csv)
    train_csv.write_text(TRAIN_CSV.replace("cl_id", "client"))
    with pytest.raises(InputError, match="no column 'cl_id'; it has PERIOD, client"):
        rosbank.read_labels(train_csv)


def test_columns_that_are_not_read_may_change_their_kind(train_csv: Path) -> None:
    """channel_type is empty for longer than a block, then a text."""
    lines = TRAIN_CSV.splitlines()
    train_csv.write_text("\n".join([lines[0], *[lines[1]] * 40_000, lines[3]]))
    assert train_csv.stat().st_size > 2 << 20
    assert rosbank.read_labels(train_csv).to_dict() == {0: 0, 10: 1}


def test_only_features_that_tell_the_label_score_above_chance() -> None:
    random = np.random.default_rng(1)
    clients = np.arange(600)
    churned = random.random(600) < 0.4
    keys = np.array([user_key(str(client)) for client in clients], "S16")
    told = churned[:, None] + random.normal(0, 0.5, (600, 1))
    order = np.argsort(keys)  # as in training rows
    profiles = rosbank.Profiles(
        keys[order], {"embedding": told[order], "values": random.normal(0, 1, (600, 3))}
    )
    labels = pd.Series(churned.astype(int), clients)
    labels[600] = 1  # has no transactions

    report = rosbank.measure(profiles, labels)

    counts = (report["clients"], report["churned"], report["without_profile"])
    assert counts == (600, churned.sum(), 1)
    auc = report["auc_mean_and_std"]
    assert set(auc) == {"embedding", "values", "all"}
    for name in rosbank.CLASSIFIERS:
        assert auc["embedding"][name][0] > 0.87 and auc["all"][name][0] > 0.87
        assert abs(auc["values"][name][0] - 0.5) < 0.08


def test_profiles_are_those_after_each_users_last_window(tmp_path: Path) -> None:
    recipe = dataclasses.replace(MINIATURE, epochs=1, curve_epochs=1)
    rows = write_rows(tmp_path / "rows")
    train(recipe, rows, tmp_path / "model")
    profiles = rosbank.stored_profiles(recipe, rows, tmp_path / "model", lambda *_: None)
    users = [f"u{number}" for number in range(16)]
    assert profiles.key_U.tolist() == sorted(user_key(user).rstrip(b"\0") for user in users)
    windows = profiles.features["user features"][:, FEATURE_NAMES.index("windows")]
    last = dict(zip(profiles.key_U.tolist(), np.expm1(windows), strict=True))
    # Users from 12 on stop on day 20: 10 windows, the others have 20.
    assert [round(last[user_key(user).rstrip(b"\0")]) for user in users] == [20] * 12 + [10] * 4
    assert np.linalg.norm(profiles.features["embedding"], axis=1) == pytest.approx(1, abs=0.01)
    interests = profiles.features["interests"]
    assert interests.shape == (16, 6) and (interests >= 0).all() and interests.sum() > 0
