"""A membership-inference test finds what a model reveals about its training, and nothing else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from lab.__main__ import app as lab_app
from lab.user_model.membership import measure, membership_report
from liveprofile.errors import InputError
from models import trained_users
from models.profile.training.train import train
from tests.unit.models.profile.miniature import MINIATURE, write_rows

LEFT_OUT = [f"u{user}" for user in range(0, 24, 2)]


def test_equal_losses_reveal_nothing() -> None:
    random = np.random.default_rng(1)
    user_M = np.repeat(np.arange(600), 5)
    found = measure(user_M, random.normal(size=len(user_M)), np.arange(600) % 2 == 0)
    value, low, high = found["auc"]
    assert low < 0.5 < high and abs(value - 0.5) < 0.1
    assert found["found_at_1_percent"] < 0.05
    assert (found["trained_users"], found["unseen_users"]) == (300, 300)


def test_lower_losses_of_the_training_are_found() -> None:
    random = np.random.default_rng(1)
    user_M = np.repeat(np.arange(600), 5)
    trained_U = np.arange(600) % 2 == 0
    found = measure(user_M, random.normal(size=len(user_M)) - 1.0 * trained_U[user_M], trained_U)
    assert found["auc"][1] > 0.9 and found["found_at_1_percent"] > 0.3
    assert found["mean_loss"]["trained"] < found["mean_loss"]["unseen"]


def test_users_without_a_loss_do_not_count() -> None:
    found = measure(np.array([0, 0, 1]), np.array([1.0, 3.0, 4.0]), np.array([True, False, True]))
    assert found == {
        "trained_users": 1,
        "unseen_users": 1,
        "auc": [1.0, 1.0, 1.0],
        "found_at_1_percent": 1.0,
        "mean_loss": {"trained": 2.0, "unseen": 4.0},
    }
    assert measure(np.array([0]), np.array([1.0]), np.array([True, False]))["auc"] is None


@pytest.mark.slow
def test_train_without_users_and_test_the_model(tmp_path: Path, monkeypatch) -> None:
    from models.profile import recipes

    rows = write_rows(tmp_path / "rows", users=24)
    short = dataclasses.replace(MINIATURE, epochs=1, windows_per_epoch=64)
    monkeypatch.setitem(recipes.RECIPES, "general", short)
    (tmp_path / "users.txt").write_text("\n".join(LEFT_OUT))
    command = [
        "model",
        "train",
        "general",
        "--rows",
        str(rows),
        "--without",
        str(tmp_path / "users.txt"),
    ]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "half"), "--json"])
    assert result.exit_code == 0, result.output
    card = json.loads((tmp_path / "half" / "card.json").read_text())
    assert card["data"]["users"] == 12
    trained = trained_users.read(tmp_path / "half")
    assert trained is not None and trained.users == 12
    assert [f"u{user}" in trained for user in range(24)] == [False, True] * 12

    result = CliRunner().invoke(
        lab_app,
        ["membership", "--rows", str(rows), "--checkpoint", str(tmp_path / "half")],
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert (report["trained_users"], report["unseen_users"]) == (12, 12)
    assert {"next_category", "next_item", "stored_item", "stored_category"} <= set(report["losses"])
    assert report == {
        "recipe": "general",
        **membership_report(short, rows, tmp_path / "half", LEFT_OUT),
    }

    # A model that learned from one of the erased users is no teacher of one without them.
    with pytest.raises(InputError, match="trained on 1 of the users"):
        train(short, rows, tmp_path / "new", teacher_folder=tmp_path / "half", without=["u1"])
    train(short, rows, tmp_path / "new", teacher_folder=tmp_path / "half", without=["u0"])
    lineage = trained_users.read(tmp_path / "new")
    assert lineage is not None and [each.users for each in lineage.filters] == [23, 12]
    (tmp_path / "half" / trained_users.FILE).unlink()
    with pytest.raises(InputError, match=r"trained_users\.json is missing"):
        train(short, rows, tmp_path / "new", teacher_folder=tmp_path / "half", without=["u0"])
    with pytest.raises(InputError, match="--unseen"):
        membership_report(short, rows, tmp_path / "half")
    with pytest.raises(InputError, match="0 users of the rows are not in"):
        membership_report(short, rows, tmp_path / "half", ["nobody"])
