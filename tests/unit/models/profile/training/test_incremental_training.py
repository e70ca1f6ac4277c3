"""Distillation from a teacher, and continued training on newer rows."""

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from liveprofile.errors import InputError
from liveprofile.units import DAY_MS
from models.profile import checkpoint, recipes, vocabulary_expansion
from models.profile.data.prepared import split_new_windows
from models.profile.inference import ProfileModel
from models.profile.training.train import train
from tests.unit.models.profile.miniature import (
    FIRST_DAY_MS,
    SHORT,
    assert_scores_equal,
    random_tokens,
    score,
    write_trained_shop,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_trained_shop(tmp_path_factory.mktemp("incremental"))


def test_adding_items_does_not_change_other_scores(shop, tmp_path):
    network, items, categories, card = checkpoint.load(shop / "model")
    new = ["i?-a", "i?-b"]
    expanded = vocabulary_expansion.add_items(
        network, vocabulary_expansion.hash_bucket_rows(network, items, new)
    )
    fields = card.model_dump(exclude={"format", "shape", "sha256"})
    checkpoint.save(tmp_path, expanded, [*items, *new], categories, **fields)
    histories, windows = (
        [[t._replace(item="i?-a") if t.item == "i1-0" else t for t in row] for row in rows]
        for rows in random_tokens()
    )
    models = (ProfileModel.load(folder, device="cpu") for folder in (shop / "model", tmp_path))
    scores = [score(model, histories, windows) for model in models]
    # The new names may become next items; nothing else may change.
    before, after = (result._replace(next_items=result.next_items[:, :1] * 0) for result in scores)
    assert_scores_equal(before, after)


def test_small_student_uses_the_teachers_items_and_loss_terms(shop, tmp_path):
    student = dataclasses.replace(SHORT, name="student", layers=1)
    card = train(student, shop / "early", tmp_path / "student", teacher_folder=shop / "model")
    _, teacher_items, _, teacher_card = checkpoint.load(shop / "model")
    model, items, _, _ = checkpoint.load(tmp_path / "student")
    assert items == teacher_items and len(model.blocks) == 1
    assert card["data"]["teacher"] == teacher_card.sha256
    header = (tmp_path / "student" / "curves.csv").read_text().splitlines()[0]
    assert "taught_category" in header and "taught_item" in header


def test_teacher_with_another_sequence_length_is_rejected(shop, tmp_path):
    other = dataclasses.replace(SHORT, max_len=16)
    with pytest.raises(InputError, match="max_len = 32, but recipe miniature has 16"):
        train(other, shop / "early", tmp_path / "other", teacher_folder=shop / "model")


def test_continued_training_makes_the_next_revision_until_rows_are_used_up(
    shop, tmp_path, monkeypatch
):
    monkeypatch.setitem(recipes.RECIPES, "general", SHORT)
    arguments = [
        "model",
        "train",
        "general",
        "--rows",
        str(shop / "all"),
        "--out",
        str(tmp_path / "next"),
    ]
    result = CliRunner().invoke(app, [*arguments, "--continue", str(shop / "model"), "--json"])
    assert result.exit_code == 0, result.output
    card = checkpoint.load(tmp_path / "next")[3]
    assert (card.version, card.revision) == ("miniature-2", 2)
    assert card.data["train_until"] > checkpoint.load(shop / "model")[3].data["train_until"]
    assert card.recipe["learning_rate"] == SHORT.continue_learning_rate
    metrics = json.loads(result.stdout.splitlines()[-1])
    assert {"validation", "validation_before"} <= set(metrics)
    with pytest.raises(InputError, match="no new training rows"):
        train(
            SHORT,
            shop / "early",
            tmp_path / "b",
            teacher_folder=tmp_path / "next",
            incremental=True,
        )


def test_new_windows_are_split_by_time_and_mixed_with_replayed_ones():
    end_ms_W = FIRST_DAY_MS + DAY_MS * np.arange(1, 101)
    since_ms = FIRST_DAY_MS + 60 * DAY_MS
    split = split_new_windows(SHORT, end_ms_W, since_ms, np.random.default_rng(1))
    new = split.train[end_ms_W[split.train] > since_ms]
    assert len(new) == len(split.train) // 2 == 34
    assert new.max() < split.validation.min() and len(split.validation) == 6
    assert len(set(split.train)) == len(split.train) and not len(split.test)
