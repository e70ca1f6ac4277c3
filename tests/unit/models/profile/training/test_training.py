"""Training: weights, card, curves, commands, distillation, continued training, no categories."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from liveprofile.errors import InputError
from liveprofile.units import DAY_MS
from models.profile import checkpoint, recipes
from models.profile.data.prepared import split_by_time, split_new_windows
from models.profile.device import ModelError
from models.profile.inference import ProfileModel
from models.profile.recipes import recipe
from models.profile.training import curves
from models.profile.training.train import train
from tests.unit.models.profile.miniature import (
    FIRST_DAY_MS,
    MINIATURE,
    SHORT,
    assert_scores_equal,
    random_tokens,
    run,
    score,
    write_params,
    write_rows,
    write_trained_shop,
)

pytestmark = pytest.mark.slow


def test_training_lowers_the_validation_loss_and_draws_its_curves(miniature_checkpoint):
    folder, card = miniature_checkpoint
    with (folder / "curves.csv").open(newline="") as lines:
        rows = [*csv.DictReader(lines)]
    assert len(rows) == card["metrics"]["epochs"]
    assert float(rows[-1]["validation_loss"]) < float(rows[0]["validation_loss"]) - 0.5
    validation = card["metrics"]["validation"]
    assert validation["category_ndcg_at_10"] > 0.8
    assert (folder / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_figure_has_a_panel_per_loss_and_metric():
    epochs = [
        {"epoch": epoch, "seconds": 1.5, "loss": 9 - epoch, "type": 0.1, "validation_loss": 9.12}
        for epoch in range(1, 4)
    ]
    figure = curves.figure(epochs, 2)
    panels = {panel.get_title(): panel for panel in figure.axes if panel.get_title()}
    assert list(panels) == ["loss", "type", "seconds"]
    lines = {line.get_label(): line for line in panels["loss"].get_lines()}
    assert list(lines) == ["training", "validation", "best epoch (2)"]
    assert lines["training"].get_ydata().tolist() == [8, 7, 6]
    assert [*lines["best epoch (2)"].get_xdata()] == [2, 2]
    assert len(panels["type"].get_lines()) == 2  # it has no validation curve


def test_card_describes_recipe_data_and_model(miniature_checkpoint, miniature_model):
    card = json.loads((miniature_checkpoint[0] / "card.json").read_text())
    assert card["recipe"]["seed"] == MINIATURE.seed
    assert card["data"]["users"] == 16
    assert card["data"]["events"] == 4 * card["data"]["windows"]
    assert sorted(card["surprise_quantiles"]) == ["p50", "p90", "p99", "p99.5", "p99.9"]
    model = miniature_model
    assert (model.version, model.revision) == ("miniature-1", 1)
    assert (model.max_len, model.dim, card["shape"]["categories"]) == (32, 16, 6)


def test_loaded_and_saved_model_scores_as_before(miniature_checkpoint, tmp_path):
    folder, copy = miniature_checkpoint[0], tmp_path / "copy"
    network, items, categories, card = checkpoint.load(folder)
    fields = card.model_dump(exclude={"format", "shape", "sha256"})
    assert checkpoint.save(copy, network, items, categories, **fields) == card
    histories, windows = random_tokens()
    original, copied = (ProfileModel.load(path, device="cpu") for path in (folder, copy))
    assert_scores_equal(score(original, histories, windows), score(copied, histories, windows), 0)


def test_invalid_checkpoint_is_rejected(miniature_checkpoint, tmp_path):
    with pytest.raises(InputError, match=r"card\.json is missing"):
        ProfileModel.load(tmp_path)
    folder = tmp_path / "broken"
    shutil.copytree(miniature_checkpoint[0], folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-8] + b"\x00" * 8)
    with pytest.raises(InputError, match=r"not the file that card\.json describes"):
        ProfileModel.load(folder)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "revision": 1000}))
    with pytest.raises(InputError, match="revision"):
        ProfileModel.load(folder)
    (folder / "card.json").write_text(json.dumps({**card, "format": 9}))
    with pytest.raises(InputError, match="format = 9"):
        ProfileModel.load(folder)


def test_cuda_without_a_gpu_is_rejected(miniature_checkpoint):
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="no CUDA GPU"):
            ProfileModel.load(miniature_checkpoint[0], device="cuda")


def test_horizon_longer_than_the_rows_is_rejected(miniature_rows, tmp_path):
    long_horizon = dataclasses.replace(MINIATURE, horizon_days=300)
    with pytest.raises(InputError, match="horizon of 300 days"):
        train(long_horizon, miniature_rows, tmp_path / "out")


def test_split_follows_the_days_of_the_recipe():
    days = np.arange(1, 366) * DAY_MS + FIRST_DAY_MS
    split = split_by_time(recipe("complete-journey"), days)
    assert [len(windows) for windows in split[:3]] == [273, 31, 61]
    with pytest.raises(InputError, match="no window for test"):
        split_by_time(recipe("complete-journey"), days[:300])


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_trained_shop(tmp_path_factory.mktemp("incremental"))


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
    paths = {"rows": shop / "all", "out": tmp_path / "next", "continue": shop / "model"}
    result = run("model train general", **paths)
    assert result.exit_code == 0 and "next category, NDCG@10" in result.output, result.output
    card = checkpoint.load(tmp_path / "next")[3]
    assert (card.version, card.revision) == ("miniature-2", 2)
    assert card.data["train_until"] > checkpoint.load(shop / "model")[3].data["train_until"]
    assert card.recipe["learning_rate"] == SHORT.continue_learning_rate
    teacher = {"teacher_folder": tmp_path / "next", "incremental": True}
    with pytest.raises(InputError, match="no new training rows"):
        train(SHORT, shop / "early", tmp_path / "b", **teacher)
    with pytest.raises(InputError, match="continued training has no refit"):
        train(SHORT, shop / "all", tmp_path / "b", refit="test", **teacher)


def test_new_windows_are_split_by_time_and_mixed_with_replayed_ones():
    end_ms_W = FIRST_DAY_MS + DAY_MS * np.arange(1, 101)
    since_ms = FIRST_DAY_MS + 60 * DAY_MS
    split = split_new_windows(SHORT, end_ms_W, since_ms, np.random.default_rng(1))
    new = split.train[end_ms_W[split.train] > since_ms]
    assert len(new) == len(split.train) // 2 == 34
    assert new.max() < split.validation.min() and len(split.validation) == 6
    assert len(set(split.train)) == len(split.train) and not len(split.test)


def test_model_without_categories_learns_and_serves_items_and_no_interests(tmp_path):
    rows = write_rows(tmp_path / "rows", has_categories=False)
    short = dataclasses.replace(MINIATURE, epochs=1, windows_per_epoch=64)
    params = write_params(tmp_path / "params.toml", short)
    result = run("model train general-7-days", rows=rows, out=tmp_path / "model", params=params)
    assert result.exit_code == 0, result.output
    assert "next item, NDCG@10" in result.output and "next category" not in result.output
    assert "1, best 1" in result.output and "general-7-days-1" in result.output
    metrics = json.loads((tmp_path / "model/card.json").read_text())["metrics"]
    validation = metrics["validation"]
    assert validation["category_ndcg_at_10"] is None and validation["item_ndcg_at_10"] > 0.3
    assert metrics["ranker"]["windows"] > 0
    model = ProfileModel.load(tmp_path / "model", device="cpu")
    assert model.categories == []
    histories, windows = (
        [[token._replace(category="") for token in row] for row in rows]
        for rows in random_tokens(6)
    )
    scores = score(model, histories, windows)
    assert (scores.interests_after == -1).all() and (scores.next_items >= 0).any()
    for values in (scores.embedding_after, scores.surprise, scores.churn_after):
        assert np.isfinite(values).all()
