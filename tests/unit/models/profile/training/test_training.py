"""Training: weights, curves, the model card, the model checkpoint and the train command."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from liveprofile.errors import InputError
from liveprofile.units import DAY_MS
from models.profile import checkpoint
from models.profile.data.prepared import split_by_time
from models.profile.device import ModelError
from models.profile.inference import ProfileModel
from models.profile.recipes import recipe
from models.profile.training.train import train
from tests.unit.models.profile.miniature import (
    FIRST_DAY_MS,
    MINIATURE,
    assert_scores_equal,
    random_tokens,
    score,
)

pytestmark = pytest.mark.slow


def test_training_lowers_the_validation_loss_and_beats_popularity(miniature_checkpoint):
    folder, card = miniature_checkpoint
    lines = (folder / "curves.csv").read_text().splitlines()
    column = lines[0].split(",").index("validation_loss")
    first, last = float(lines[1].split(",")[column]), float(lines[-1].split(",")[column])
    assert last < first - 0.5
    category = card["metrics"]["validation"]["next_event"]["category"]
    assert category["model"]["ndcg_at_10"] > category["popularity"]["ndcg_at_10"]


def test_card_describes_recipe_data_and_model(miniature_checkpoint, miniature_model):
    card = json.loads((miniature_checkpoint[0] / "card.json").read_text())
    assert card["recipe"]["seed"] == MINIATURE.seed
    assert card["data"]["users"] == 16
    assert card["data"]["events"] == 4 * card["data"]["windows"]
    assert sorted(card["surprise_quantiles"]) == ["p50", "p90", "p99", "p99.5", "p99.9"]
    model = miniature_model
    assert (model.version, model.revision) == ("miniature-1", 1)
    assert (model.max_len, model.dim, card["shape"]["categories"]) == (32, 16, 6)


def test_same_recipe_and_rows_give_the_same_weights(miniature_rows, tmp_path):
    short = dataclasses.replace(MINIATURE, epochs=1, windows_per_epoch=64)
    cards = [train(short, miniature_rows, tmp_path / str(run)) for run in range(2)]
    assert cards[0]["sha256"] == cards[1]["sha256"]


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


def test_train_command_prints_its_metrics(miniature_rows, tmp_path, monkeypatch):
    from cli.main import app
    from models.profile import recipes

    monkeypatch.setitem(recipes.RECIPES, "general", MINIATURE)
    arguments = [
        "model",
        "train",
        "general",
        "--rows",
        str(miniature_rows),
        "--out",
        str(tmp_path / "m"),
    ]
    result = CliRunner().invoke(app, [*arguments, "--epochs", "1", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["epochs"] == 1
    result = CliRunner().invoke(app, [*arguments, "--epochs", "1"])
    assert "churn AUC" in result.stdout and "miniature-1" in result.stdout
    result = CliRunner().invoke(app, ["model", "train", "none"])
    assert result.exit_code == 2 and "none" in result.output
