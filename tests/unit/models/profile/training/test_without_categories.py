"""A shop whose events have no categories: training, serving and evaluation of its items."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from models.profile.inference import ProfileModel
from models.profile.recipes import recipe
from tests.unit.models.profile.miniature import MINIATURE, random_tokens, score, write_rows

pytestmark = pytest.mark.slow
RECIPE = "general-7-days"
SHORT = dataclasses.asdict(
    dataclasses.replace(MINIATURE, name=RECIPE, epochs=1, windows_per_epoch=64)
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    """The folder of a model that the train command made, and the metrics of its card."""
    folder = tmp_path_factory.mktemp("without_categories")
    rows = write_rows(folder / "rows", has_categories=False)
    params = folder / "params.toml"
    base = dataclasses.asdict(recipe(RECIPE))
    changed = {name: value for name, value in SHORT.items() if value != base[name]}
    params.write_text("".join(f"{name} = {value}\n" for name, value in changed.items()))
    command = ["model", "train", RECIPE, "--rows", str(rows), "--out", str(folder / "model")]
    command += ["--params", str(params)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "next item, NDCG@10" in result.output and "next category" not in result.output
    return folder / "model", json.loads((folder / "model/card.json").read_text())["metrics"]


def test_items_are_learned_without_categories(trained: tuple[Path, dict]) -> None:
    metrics = trained[1]["validation"]["next_event"]
    assert "ndcg_at_10" not in metrics["category"]["model"]
    item = metrics["item"]
    assert item["model"]["ndcg_at_10"] > item["popularity"]["ndcg_at_10"]
    assert trained[1]["ranker"]["windows"] > 0


def test_model_without_categories_serves_items_and_no_interests(trained: tuple[Path, dict]) -> None:
    model = ProfileModel.load(trained[0], device="cpu")
    assert model.categories == []
    histories, windows = (
        [[token._replace(category="") for token in row] for row in rows]
        for rows in random_tokens(6)
    )
    scores = score(model, histories, windows)
    assert scores.interests_after.shape == (6, 0)
    assert scores.next_items.shape == (6, 10)
    for values in (scores.embedding_after, scores.surprise, scores.churn_after):
        assert np.isfinite(values).all()
