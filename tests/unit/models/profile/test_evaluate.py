"""What a checkpoint is measured by, and the parts of it that are fitted behind the trunk."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cli.main import app
from liveprofile.units import DAY_MS
from models.profile import checkpoint, recipes, user_embedding
from models.profile.data import training_rows
from models.profile.data.churn_spend_samples import validation_windows
from models.profile.data.examples import build
from models.profile.data.prepared import split
from models.profile.encoding import Vocabulary
from models.profile.evaluation import evaluate
from models.profile.network import expected_spend
from models.profile.training.train import train
from tests.unit.models.profile.test_training import MINIATURE, write_rows


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    write_rows(folder / "rows", days=60)
    train(MINIATURE, folder / "rows", folder / "model")
    return folder


@pytest.fixture(scope="module")
def corpus(shop):
    _, items, categories, _ = checkpoint.load(shop / "model")
    streams = training_rows.read(shop / "rows")
    named = Vocabulary(items, MINIATURE.item_buckets), Vocabulary(categories, 8)
    return build(streams, *named, MINIATURE.horizon_days)


def test_expected_spend_is_the_median():
    torch.manual_seed(1)
    churn, log_mean, log_std = torch.tensor([[0.0, 0.2, 0.45, 0.7], [3.0] * 4, [0.8] * 4])
    stays = torch.rand(200_000, 4) >= churn
    drawn = torch.where(stays, (log_mean + log_std * torch.randn(200_000, 4)).exp(), 0.0)
    median = expected_spend(churn, log_mean, log_std)
    torch.testing.assert_close(median, drawn.quantile(0.5, dim=0), rtol=0.03, atol=1e-6)
    assert median[3] == 0
    extreme = expected_spend(torch.tensor([0.0]), torch.tensor([1e6]), torch.tensor([5.0]))
    assert extreme.isfinite().all()


def test_labels_of_the_value_validation_are_known_only_later(shop, corpus):
    parts = split(MINIATURE, corpus.streams.end_ms_W)
    end_ms = corpus.streams.end_ms_W[validation_windows(corpus, parts)]
    assert len(end_ms)
    assert (end_ms + 7 * DAY_MS > parts.train_until_ms).all()
    assert (end_ms + 7 * DAY_MS <= parts.validation_until_ms).all()


def test_the_embedding_keeps_what_it_has_room_for(shop, corpus):
    model = checkpoint.load(shop / "model")[0]
    parts = split(MINIATURE, corpus.streams.end_ms_W)
    assert user_embedding.fit(model, corpus, parts.train, MINIATURE) == {"kept": 1.0}
    state = torch.randn(9, MINIATURE.dim)
    cosines = torch.nn.functional.normalize(state, dim=1)
    kept = model.embeddings(state)
    torch.testing.assert_close(kept @ kept.T, cosines @ cosines.T, rtol=1e-4, atol=1e-4)


def test_a_rare_item_that_was_never_had_is_no_candidate(shop, corpus):
    model = checkpoint.load(shop / "model")[0]
    windows = np.flatnonzero(corpus.position_W <= 1)  # of a user's first, all are new
    every = evaluate.next_events(model, corpus, windows, MINIATURE)
    few = evaluate.next_events(
        model, corpus, windows, dataclasses.replace(MINIATURE, ranked_items=2)
    )
    left_out = few.item_rank_M == evaluate.NOT_RANKED
    assert not (every.item_rank_M == evaluate.NOT_RANKED).any()
    assert left_out.any() and not left_out.all()
    assert (few.item_rank_M[~left_out] <= every.item_rank_M[~left_out]).all()
    np.testing.assert_array_equal(few.category_rank_M, every.category_rank_M)


def test_the_evaluate_command(shop, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "general", MINIATURE)
    arguments = ["evaluate", "general", "--rows", str(shop / "rows")]
    result = CliRunner().invoke(app, [*arguments, "--checkpoint", str(shop / "model")])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert (report["part"], report["version"]) == ("test", "miniature-1")
    category = report["next_event"]["category"]
    assert {"model", "user_frequency", "popularity"} <= set(category)
    difference, low, high = category["ndcg_at_10_over_user_frequency"]
    assert low <= difference <= high
    frequency = category["user_frequency"]["ndcg_at_10"]
    assert difference == pytest.approx(category["model"]["ndcg_at_10"] - frequency, abs=2e-4)
