"""Inference: the encoding of tokens, scores against a plain reference, and what they depend on."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.events.modalities import PLACE, Modality
from liveprofile.units import DAY_MS
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import Token
from models.profile import text_encoder, user_features
from models.profile.encoding import MAX_CACHED_IDS, Vocabulary, hash_row, kept_token_counts
from models.profile.inference import ProfileModel
from models.profile.network import BehaviourTransformer, Fusion, Shape
from models.profile.ranker.network import Ranker
from models.profile.values import INPUTS, ValueCurveHead
from tests.reference.plain_model import PlainProfileModel
from tests.unit.models.profile import miniature
from tests.unit.models.profile.miniature import (
    FIRST_DAY_MS,
    assert_scores_equal,
    memories_of,
    purchase_token,
    usual_tokens,
)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(2, 40))
def test_long_window_leaves_history_a_quarter_of_the_positions(histories, windows, max_len):
    counts = kept_token_counts(np.array([histories]), np.array([windows]), max_len)
    history, window = (int(count[0]) for count in counts)
    capacity = max_len - 1
    assert history + window == min(histories + windows, capacity)
    assert min(histories, capacity // 4) <= history <= histories
    assert window == min(windows, capacity - min(histories, capacity // 4))


def test_id_maps_to_its_name_row_a_hash_bucket_or_row_zero():
    vocabulary = Vocabulary(["a", "b"], 4)
    assert vocabulary.rows == 7
    assert vocabulary.indexes(["", "a", "b", "a"]).tolist() == [0, 1, 2, 1]
    unknown = int(vocabulary.indexes(["never seen"])[0])
    assert 3 <= unknown < 7
    assert unknown == hash_row("never seen", 2, 4)
    assert 3 <= hash_row("\ud800", 2, 4) < 7


def test_many_unknown_ids_leave_cache_bounded():
    vocabulary = Vocabulary(["a"], 8)
    vocabulary.indexes([str(i) for i in range(MAX_CACHED_IDS + 10)])
    assert len(vocabulary) <= MAX_CACHED_IDS + 2
    assert vocabulary.indexes(["a", ""]).tolist() == [1, 0]


START_MS = 1_500_000_000_000
MODALITIES = (Modality("clip", 5), PLACE, Modality("voice", 2))
ITEMS, CATEGORIES, BIASED, DECAY_DAYS = 60, 14, 12, 30.0


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(4)
    shape = Shape(ITEMS, 8, CATEGORIES, 4, dim=16, layers=2, heads=2, max_len=16, embedding=8)
    model = BehaviourTransformer(shape)
    model.ranker = Ranker(CATEGORIES, BIASED)
    model.value_curves = ValueCurveHead(len(INPUTS), 1, 2)
    model.value_curves.after_days[1] = 7.0
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model.eval().requires_grad_(False)


def profile_model(network, kind=ProfileModel, batch_rows=512):
    card = {"version": "x", "revision": 1, "decay_days": DECAY_DAYS}
    return kind(
        network,
        [f"i{n}" for n in range(ITEMS)],
        [f"c{n}" for n in range(CATEGORIES)],
        card,
        device=torch.device("cpu"),
        batch_rows=batch_rows,
        length_buckets=(4, 8),
    )


def random_users(count=50):
    """Histories and windows of tokens; the first history and the second window are empty."""
    random = np.random.default_rng(8)

    def token(n):
        item, category = int(random.integers(-3, ITEMS + 3)), int(random.integers(CATEGORIES + 2))
        name = f"i{item}" if item >= 0 else ""
        return Token(START_MS + n * DAY_MS, int(random.integers(12)), name, f"c{category}", 2.0 * n)

    histories = [[token(n) for n in range(int(random.integers(0, 30)))] for _ in range(count)]
    windows = [[token(40 + n) for n in range(int(random.integers(0, 12)))] for _ in range(count)]
    histories[0] = windows[1] = []
    return histories, windows


def score(model, histories, windows, vectors=()):
    random = np.random.default_rng(9)
    shape = (2, len(histories), len(user_features.FEATURE_NAMES))
    before_BX, after_BX = random.uniform(0, 5, shape).astype(np.float32)
    tokens = TokenColumns.of(histories), TokenColumns.of(windows)
    memories = memories_of(histories, windows)
    return model.score(*tokens, before_BX, after_BX, vectors, memories)


def test_scores_equal_those_of_plain_implementation(network):
    histories, windows = random_users()
    plain = profile_model(network, PlainProfileModel, batch_rows=16)
    exact = score(profile_model(network), histories, windows)
    assert_scores_equal(exact, score(plain, histories, windows), 1e-4)


def random_vectors(count, seed=10):
    """Vectors of `count` windows; each window has each modality with probability 1/2."""
    random = np.random.default_rng(seed)
    return [
        {
            modality: random.normal(size=modality.numbers).astype(np.float32)
            for modality in MODALITIES
            if random.random() < 0.5
        }
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def fused(network):
    model = copy.deepcopy(network)
    model.fusion = Fusion(model.shape.dim, MODALITIES)
    torch.manual_seed(5)
    for weight in model.fusion.weights:
        torch.nn.init.normal_(weight, std=0.5)
    return model.eval().requires_grad_(False)


def test_modality_vectors_change_only_interests_after_and_next_items(network, fused):
    histories, windows = random_users()
    vectors = random_vectors(len(histories))
    without = score(profile_model(network, batch_rows=16), histories, windows)
    with_vectors = score(profile_model(fused, batch_rows=16), histories, windows, vectors)
    has_vectors = np.array([bool(window_vectors) for window_vectors in vectors])
    assert 10 < has_vectors.sum() < 50
    for name, value in with_vectors._asdict().items():
        if name in ("interests_after", "interests_after_p", "next_items"):
            changed = (value != getattr(without, name)).any(1)
            assert (changed == has_vectors).all() if name == "interests_after_p" else changed.any()
            assert not (changed & ~has_vectors).any()
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, getattr(without, name), name)


def test_missing_vectors_or_modalities_leave_scores_unchanged(network, fused):
    histories, windows = random_users()
    without = score(profile_model(network), histories, windows)
    vectors = random_vectors(len(histories))
    for model, inputs in ((network, vectors), (fused, [{}] * len(vectors)), (fused, ())):
        assert_scores_equal(score(profile_model(model), histories, windows, inputs), without, 0)


@pytest.mark.slow
def test_scores_before_the_window_do_not_depend_on_it(miniature_model):
    histories = [usual_tokens(), usual_tokens(2, 3), []]
    windows = [[purchase_token(100)], [purchase_token(100, 2)], [purchase_token(100, 3)]]
    other_windows = [
        [purchase_token(105, 4, 2), purchase_token(107)],
        [purchase_token(101, 0)],
        [purchase_token(300, 1)],
    ]
    scores = miniature.score(miniature_model, histories, windows)
    other_scores = miniature.score(miniature_model, histories, other_windows)
    for name in scores._fields:
        if "before" in name:
            value, other = getattr(scores, name), getattr(other_scores, name)
            np.testing.assert_allclose(value, other, 1e-5, 1e-5)
    assert np.abs(scores.embedding_after - other_scores.embedding_after).max() > 1e-3


@pytest.mark.slow
def test_unknown_ids_and_missing_history_are_scored(miniature_model):
    unknown = [Token(FIRST_DAY_MS, kind, f"?{kind}", "\ud800 new", -3.0) for kind in range(12)]
    no_ids = [Token(0, 0, "", "", 1e9)]
    scores = miniature.score(miniature_model, [[], [], unknown, []], [unknown, no_ids, [], []])
    assert all(np.isfinite(value).all() for value in scores[:-1])
    assert scores.surprise[2:].tolist() == [0, 0]
    assert scores.embedding_before[3].tolist() == scores.embedding_after[3].tolist()
    assert len(miniature.score(miniature_model, [], []).surprise) == 0


# The first four numbers that sentence-transformers 6.2.0 returns for all-MiniLM-L6-v2.
PUBLISHED = (0.0284567, -0.0059969, 0.0226263, -0.0018348)


@pytest.mark.slow
def test_vectors_of_texts_equal_those_of_sentence_transformers_in_any_batch():
    vectors = text_encoder.encode(["yogurt with fruit", "", "word " * 400])
    np.testing.assert_allclose(vectors[0, :4], PUBLISHED, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 0, 1], atol=1e-5)
    alone = text_encoder.encode(["yogurt with fruit"])
    np.testing.assert_allclose(alone[0], vectors[0], atol=1e-6)
