"""A model that learns from another's answers, and one that goes on with newer rows."""

import dataclasses
import json
from datetime import datetime

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from liveprofile.errors import InputError
from liveprofile.units import DAY_MS
from models.profile import checkpoint, recipes, vocabulary_expansion
from models.profile.experiments.walk_forward import walk_forward
from models.profile.inference import ProfileModel
from models.profile.training.train import newer, train
from tests.unit.models.profile.test_training import (
    FIRST_DAY_MS,
    MINIATURE,
    assert_same,
    people,
    score,
    write_rows,
)

SHORT = dataclasses.replace(MINIATURE, epochs=2, windows_per_epoch=200, continue_epochs=1)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Rows of 40 days and of 80, and a checkpoint trained on the first 28."""
    folder = tmp_path_factory.mktemp("going-on")
    write_rows(folder / "early")
    write_rows(folder / "all", days=80)
    train(SHORT, folder / "early", folder / "model")
    return folder


def test_a_grown_model_says_what_it_said(shop, tmp_path):
    network, items, categories, card = checkpoint.load(shop / "model")
    new = ["i?-a", "i?-b"]
    grown = vocabulary_expansion.with_items(
        network, *vocabulary_expansion.as_read(network, items, new)
    )
    fields = card.model_dump(exclude={"format", "shape", "sha256"})
    checkpoint.save(tmp_path, grown, [*items, *new], categories, **fields)
    one, other = (ProfileModel.load(folder, device="cpu") for folder in (shop / "model", tmp_path))
    histories, windows = people()
    renamed = [
        [[t._replace(item="i?-a") if t.item == "i1-0" else t for t in row] for row in rows]
        for rows in (histories, windows)
    ]
    scores = [score(model, *renamed) for model in (one, other)]
    # The new names may come up among the next items, and nothing else may have changed.
    known = [one_._replace(next_items=one_.next_items[:, :1] * 0) for one_ in scores]
    assert_same(*known)


def test_a_small_model_learns_from_a_teacher(shop, tmp_path):
    student = dataclasses.replace(SHORT, name="student", layers=1)
    card = train(student, shop / "early", tmp_path / "student", teacher_folder=shop / "model")
    teacher = checkpoint.load(shop / "model")
    model, items, _, _ = checkpoint.load(tmp_path / "student")
    assert items == teacher[1] and len(model.blocks) == 1
    assert card["data"]["teacher"] == teacher[3].sha256
    header = (tmp_path / "student" / "curves.csv").read_text().splitlines()[0]
    assert "taught_category" in header and "taught_item" in header
    other = dataclasses.replace(SHORT, max_len=16)
    with pytest.raises(InputError, match="max_len = 32, but recipe miniature has 16"):
        train(other, shop / "early", tmp_path / "other", teacher_folder=shop / "model")


def test_going_on_learns_what_is_new(shop, tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "general", SHORT)
    arguments = ["train", "general", "--rows", str(shop / "all"), "--out", str(tmp_path / "next")]
    result = CliRunner().invoke(app, [*arguments, "--continue", str(shop / "model"), "--json"])
    assert result.exit_code == 0, result.output
    card = checkpoint.load(tmp_path / "next")[3]
    assert (card.version, card.revision) == ("miniature-2", 2)
    assert card.data["train_until"] > checkpoint.load(shop / "model")[3].data["train_until"]
    assert card.recipe["learning_rate"] == SHORT.continue_learning_rate
    measured = json.loads(result.stdout.splitlines()[-1])
    assert {"validation", "validation_before"} <= set(measured)
    with pytest.raises(InputError, match="nothing new in the rows"):
        train(SHORT, shop / "early", tmp_path / "b", teacher_folder=tmp_path / "next", goes_on=True)


def test_what_is_new_and_what_is_replayed():
    end_ms_W = FIRST_DAY_MS + DAY_MS * np.arange(1, 101)
    since_ms = FIRST_DAY_MS + 60 * DAY_MS
    parts = newer(SHORT, end_ms_W, since_ms, np.random.default_rng(1))
    new = parts.train[end_ms_W[parts.train] > since_ms]
    assert len(new) == len(parts.train) // 2 == 34
    assert new.max() < parts.validation.min() and len(parts.validation) == 6
    assert len(set(parts.train)) == len(parts.train) and not len(parts.test)


def test_week_by_week(shop):
    weeks = walk_forward(SHORT, shop / "all", shop / "model", datetime(2017, 2, 12), 3)
    assert [week["week"] for week in weeks] == ["2017-02-12", "2017-02-19", "2017-02-26"]
    assert all(week["events"] and 0 <= week["category"]["frozen"] <= 1 for week in weeks)
    with pytest.raises(InputError, match="trained on windows behind 2017-01-10"):
        walk_forward(SHORT, shop / "all", shop / "model", datetime(2017, 1, 10), 1)


def test_no_week_is_learned_before_it_is_ranked(shop, monkeypatch):
    """What comes in or after a week can't change how it is ranked."""
    seen = []

    def gone_on(recipe, streams, model, since_ms, until_ms, random):
        seen.append(until_ms)
        return model

    monkeypatch.setattr("models.profile.experiments.walk_forward._gone_on", gone_on)
    weeks = walk_forward(SHORT, shop / "all", shop / "model", datetime(2017, 2, 12), 2)
    starts = [datetime.fromisoformat(week["week"]) for week in weeks]
    assert [ms / DAY_MS - FIRST_DAY_MS / DAY_MS for ms in seen] == [
        (start - datetime(2017, 1, 1)).days for start in starts
    ]
    assert all(week["category"]["continued_over_frozen"] == [0, 0, 0] for week in weeks)
