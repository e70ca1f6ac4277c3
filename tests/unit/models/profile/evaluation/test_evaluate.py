"""Evaluation of a model checkpoint, and the layers that are fitted after the trunk."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from liveprofile.units import DAY_MS
from models.profile import checkpoint, recipes
from models.profile.data import training_rows
from models.profile.data.examples import build_corpus
from models.profile.data.moments import validation_windows
from models.profile.data.prepared import split_by_time
from models.profile.encoding import Vocabulary
from models.profile.evaluation import evaluate
from models.profile.evaluation.next_basket import basket_scores, next_baskets
from models.profile.evaluation.served import served_rankings
from models.profile.inference import ProfileModel
from models.profile.training.parts import fit_embedding
from models.profile.training.train import train
from tests.unit.models.profile.miniature import MINIATURE, run, write_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with training rows of 60 days and a model checkpoint trained on them."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_rows(folder / "rows", days=60)
    train(MINIATURE, folder / "rows", folder / "model")
    return folder


@pytest.fixture(scope="module")
def corpus(shop):
    _, items, categories, _ = checkpoint.load(shop / "model")
    streams = training_rows.read(shop / "rows")
    vocabularies = Vocabulary(items, MINIATURE.item_buckets), Vocabulary(categories, 8)
    return build_corpus(streams, *vocabularies, MINIATURE.horizon_days)


def test_validation_labels_are_unknown_when_training_ends(corpus):
    split = split_by_time(MINIATURE, corpus.streams.end_ms_W)
    end_ms = corpus.streams.end_ms_W[validation_windows(corpus, split)]
    assert len(end_ms)
    assert (end_ms + 7 * DAY_MS > split.train_until_ms).all()
    assert (end_ms + 7 * DAY_MS <= split.validation_until_ms).all()


def test_embedding_as_wide_as_the_state_keeps_all_of_it(shop, corpus):
    model = checkpoint.load(shop / "model")[0]
    split = split_by_time(MINIATURE, corpus.streams.end_ms_W)
    assert fit_embedding(model, corpus, split.train, MINIATURE) == {"kept": 1.0}
    state = torch.randn(9, MINIATURE.dim)
    cosines = torch.nn.functional.normalize(state, dim=1)
    kept = model.embeddings(state)
    torch.testing.assert_close(kept @ kept.T, cosines @ cosines.T, rtol=1e-4, atol=1e-4)


def test_served_rankings_are_those_of_each_windows_own_user(shop, corpus):
    streams = corpus.streams
    split = split_by_time(MINIATURE, streams.end_ms_W)
    baskets = next_baskets(streams, "category", split.test)
    model = ProfileModel.load(shop / "model", device="cpu")
    ranking = served_rankings(model, streams, baskets.window_W, MINIATURE.history_windows).category
    assert basket_scores(baskets, ranking).recall_at_10.mean() == 1  # six categories
    # Each user buys from two categories of six.
    assert basket_scores(baskets, ranking[:, :2]).ndcg_at_10.mean() > 0.95
    others = np.roll(ranking, 5, axis=0)
    assert basket_scores(baskets, others[:, :2]).ndcg_at_10.mean() < 0.8


def test_rare_item_outside_the_history_is_not_a_candidate(shop, corpus):
    model = checkpoint.load(shop / "model")[0]
    windows = np.flatnonzero(corpus.position_W <= 1)  # a user's first windows have new items only
    all_ranked = evaluate.score_next_events(model, corpus, windows, MINIATURE)
    few_ranked = evaluate.score_next_events(
        model, corpus, windows, dataclasses.replace(MINIATURE, ranked_items=2)
    )
    not_ranked = few_ranked.item_rank_M == evaluate.NOT_RANKED
    assert not (all_ranked.item_rank_M == evaluate.NOT_RANKED).any()
    assert not_ranked.any() and not not_ranked.all()
    assert (few_ranked.item_rank_M[~not_ranked] <= all_ranked.item_rank_M[~not_ranked]).all()
    np.testing.assert_array_equal(few_ranked.category_rank_M, all_ranked.category_rank_M)


def evaluate_command(shop, monkeypatch, *arguments):
    monkeypatch.setitem(recipes.RECIPES, "general", MINIATURE)
    paths = {"rows": shop / "rows", "checkpoint": shop / "model"}
    result = run("model evaluate general", *arguments, **paths)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def test_evaluate_command_reports_what_is_served_on_validation(shop, monkeypatch, tmp_path):
    log = tmp_path / "looks.jsonl"
    report = evaluate_command(shop, monkeypatch, "--test-log", str(log))
    assert (report["part"], report["version"]) == ("validation", "miniature-1")
    assert not log.exists()
    category = report["next_basket"]["category"]
    assert {"popularity", "own_counts", "lstm"} == set(category["all"]["model_over"])
    difference, low, high = category["all"]["model_over"]["popularity"]["ndcg_at_10"]
    assert 0 < low <= difference <= high
    assert set(report["any_time"]) == {"7_days", "30_days", "90_days"}
    week = report["any_time"]["7_days"]
    assert "auc" in week["churn"]["model"] and "model_over" in week["churn"]["logistic_regression"]
    assert report["any_time"]["90_days"] is None  # the rows cover 60 days


def test_evaluation_on_test_is_logged(shop, monkeypatch, tmp_path):
    log = tmp_path / "looks.jsonl"
    report = evaluate_command(shop, monkeypatch, "--part", "test", "--test-log", str(log))
    assert report["part"] == "test"
    (look,) = map(json.loads, log.read_text().splitlines())
    assert look["checkpoint"] == "miniature-1"
    assert look["figures"]["next_basket"] == report["next_basket"]
