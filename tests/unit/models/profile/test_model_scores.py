"""Scores of a trained model: shapes, ranges, batching and what they depend on."""

import numpy as np
import pytest

from liveprofile.wire.tokens import TYPE_INDEX, Token
from models.profile.inference import ProfileModel
from tests.unit.models.profile.miniature import (
    FIRST_DAY_MS,
    assert_scores_equal,
    purchase_token,
    random_tokens,
    score,
    usual_tokens,
)

pytestmark = pytest.mark.slow


def test_scores_before_the_window_do_not_depend_on_it(miniature_model):
    histories = [usual_tokens(), usual_tokens(2, 3), []]
    windows = [[purchase_token(100)], [purchase_token(100, 2)], [purchase_token(100, 3)]]
    other_windows = [
        [purchase_token(105, 4, 2), purchase_token(107)],
        [purchase_token(101, 0)],
        [purchase_token(300, 1)],
    ]
    scores = score(miniature_model, histories, windows)
    other_scores = score(miniature_model, histories, other_windows)
    for name in scores._fields:
        if "before" in name:
            value, other = getattr(scores, name), getattr(other_scores, name)
            np.testing.assert_allclose(value, other, 1e-5, 1e-5)
    assert np.abs(scores.embedding_after - other_scores.embedding_after).max() > 1e-3


def test_row_scores_the_same_alone_and_in_any_batch(miniature_model, miniature_checkpoint):
    histories, windows = random_tokens()
    together = score(miniature_model, histories, windows)
    alone = [
        score(miniature_model, [history], [window])
        for history, window in zip(histories, windows, strict=True)
    ]
    for name in together._fields[:-1]:
        stacked = np.concatenate([getattr(scores, name) for scores in alone])
        np.testing.assert_allclose(getattr(together, name), stacked, 1e-5, 1e-5, err_msg=name)
    small_batches = ProfileModel.load(
        miniature_checkpoint[0], device="cpu", batch_rows=7, length_buckets=(4, 5, 20)
    )
    assert_scores_equal(together, score(small_batches, histories, windows))


def test_scores_have_the_documented_shapes_and_ranges(miniature_model):
    histories, windows = random_tokens()
    scores = score(miniature_model, histories, windows)
    count, categories = len(histories), len(miniature_model.categories)
    assert scores.embedding_after.shape == (count, miniature_model.dim)
    np.testing.assert_allclose(np.linalg.norm(scores.embedding_before, axis=1), 1, 1e-5)
    assert scores.interests_after.shape == scores.interests_after_p.shape == (count, categories)
    assert (np.diff(scores.interests_after_p, axis=1) <= 0).all()
    assert (scores.interests_after_p.sum(1) <= 1 + 1e-5).all()
    assert scores.next_items.shape == (count, 10)
    assert scores.next_items.min() >= 0
    assert scores.next_items.max() < len(miniature_model.items)
    assert ((scores.churn_after >= 0) & (scores.churn_after <= 1)).all()
    assert (scores.spend_before >= 0).all() and np.isfinite(scores.spend_after).all()
    assert {value.dtype.name for value in scores[:-2]} == {"float32", "int32"}


def test_unknown_ids_and_missing_history_are_scored(miniature_model):
    unknown = [Token(FIRST_DAY_MS, kind, f"?{kind}", "\ud800 new", -3.0) for kind in range(12)]
    no_ids = [Token(0, 0, "", "", 1e9)]
    scores = score(miniature_model, [[], [], unknown, []], [unknown, no_ids, [], []])
    assert all(np.isfinite(value).all() for value in scores[:-2])
    assert scores.surprise[2:].tolist() == [0, 0]
    assert scores.embedding_before[3].tolist() == scores.embedding_after[3].tolist()
    assert len(score(miniature_model, [], []).surprise) == 0


def test_unusual_event_is_more_surprising_than_the_usual_one(miniature_model):
    history = usual_tokens(1, 8)
    usual, other_category = purchase_token(8, 1, 8), purchase_token(8, 4, 8)
    other_type = usual._replace(type_index=TYPE_INDEX["return"])
    windows = [[usual], [other_category], [other_type]]
    surprise = score(miniature_model, [history] * 3, windows).surprise
    assert surprise[1] > surprise[0] + 1
    assert surprise[2] > surprise[0] + 1
