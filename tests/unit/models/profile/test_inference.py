"""Inference: the encoding of tokens, scores against a plain reference, and what they depend on."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from liveprofile.events.modalities import PLACE, Modality
from liveprofile.units import DAY_MS
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import Token
from models.profile import text_encoder, user_features
from models.profile.encoding import (
    AMOUNT_BUCKETS,
    BOS_TYPE,
    FIELDS,
    GAP_BUCKETS,
    MAX_CACHED_IDS,
    Encoder,
    Vocabulary,
    amount_bucket,
    hash_row,
    kept_token_counts,
)
from models.profile.inference import ProfileModel
from models.profile.network import CELL_ROWS, BehaviourTransformer, Fusion, Shape, grid_cells
from models.profile.ranker.network import Ranker
from models.profile.values import INPUTS, ValueCurveHead
from tests.reference.plain_model import PlainProfileModel
from tests.unit.models.profile import miniature
from tests.unit.models.profile.miniature import (
    FIRST_DAY_MS,
    assert_scores_equal,
    memories_of,
    purchase_token,
    random_tokens,
    usual_tokens,
)

MONDAY_MS = 1_483_315_200_000  # 2017-01-02 00:00 UTC


def event(minute=0, item="i1", category="c1", kind=0, amount=0.0):
    return Token(MONDAY_MS + 60_000 * minute, kind, item, category, amount)


def encoder(max_len=8):
    return Encoder(Vocabulary(["i1", "i2"], 4), Vocabulary(["c1"], 2), max_len, 30.0)


def encode(histories, windows, length_buckets):
    tokens = encoder().index_tokens(TokenColumns.of(histories), TokenColumns.of(windows))
    return encoder().encode(tokens, np.arange(len(histories)), length_buckets)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(2, 40))
def test_long_window_leaves_history_a_quarter_of_the_positions(histories, windows, max_len):
    counts = kept_token_counts(np.array([histories]), np.array([windows]), max_len)
    history, window = (int(count[0]) for count in counts)
    capacity = max_len - 1
    assert history + window == min(histories + windows, capacity)
    assert min(histories, capacity // 4) <= history <= histories
    assert window == min(windows, capacity - min(histories, capacity // 4))


def test_too_many_tokens_keep_the_newest():
    history = [event(minute, amount=1.0 + minute) for minute in range(9)]
    window = [event(minute, amount=1.0 + minute) for minute in range(9, 20)]
    batch = encode([history], [window], (8,))
    assert batch.groups == [(0, 1, 8)]
    amounts = (batch.embedding_rows_P7 - encoder().layout.offsets)[1:, FIELDS.index("amount")]
    kept = np.array([9.0, 15.0, 16.0, 17.0, 18.0, 19.0, 20.0])
    assert amounts.tolist() == amount_bucket(kept).tolist()


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


def test_rows_are_laid_out_with_bos_and_padding():
    history = [event(0), event(1, "i2", "new", 3, 9.5)]
    window = [event(90, "", "")]
    batch = encode([[], history], [[event(5)], window], (8,))
    assert batch.groups == [(0, 2, 4)]
    columns = dict(zip(FIELDS, (batch.embedding_rows_P7 - encoder().layout.offsets).T, strict=True))
    assert columns["type"][[0, 4]].tolist() == [BOS_TYPE, BOS_TYPE]
    assert columns["amount"][[0, 4]].tolist() == [AMOUNT_BUCKETS, AMOUNT_BUCKETS + 6]
    assert columns["gap"][0] == GAP_BUCKETS and columns["gap"][4] == GAP_BUCKETS + 23
    assert columns["item"][[1, 5, 6, 7]].tolist() == [1, 1, 2, 0]
    assert columns["category"][[1, 5, 7]].tolist() == [1, 1, 0]
    assert columns["category"][6] in (2, 3)
    assert columns["position"][[4, 5, 6, 7]].tolist() == [0, 1, 2, 3]
    assert columns["hour"][[5, 7]].tolist() == [0, 1]
    assert columns["gap"][[1, 5]].tolist() == [0, 0] and columns["gap"][6] > 1
    assert batch.after_B.tolist() == [1, 7]
    assert batch.scored_S.tolist() == [0, 6]
    assert batch.category_S.tolist() == [1, 0] and batch.type_S.tolist() == [0, 0]


def test_rows_of_different_lengths_are_grouped_by_length_bucket():
    histories = [[event(i) for i in range(size)] for size in (0, 1, 2, 6, 6)]
    windows = [[event(99)]] * 5
    batch = encode(histories, windows, (3, 5))
    assert batch.groups == [(0, 2, 3), (6, 1, 4), (10, 2, 8)]
    assert batch.after_B.tolist() == [1, 5, 9, 17, 25]


START_MS = 1_500_000_000_000
MODALITIES = (Modality("clip", 5), PLACE, Modality("voice", 2))
ITEMS, CATEGORIES, RANKED, DECAY_DAYS = 60, 14, 12, 30.0


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(4)
    shape = Shape(ITEMS, 8, CATEGORIES, 4, dim=16, layers=2, heads=2, max_len=16, embedding=8)
    model = BehaviourTransformer(shape)
    model.ranker = Ranker(16, CATEGORIES, ITEMS, RANKED)
    model.value_curves = ValueCurveHead(len(INPUTS), 1, 2)
    model.value_curves.after_days[1] = 7.0
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model.eval().requires_grad_(False)


def profile_model(network, kind=ProfileModel, ranked=RANKED, batch_rows=512):
    card = {"version": "x", "revision": 1, "decay_days": DECAY_DAYS, "ranked_items": ranked}
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
    plain = profile_model(network, PlainProfileModel, ranked=ITEMS, batch_rows=16)
    exact = score(profile_model(network, ranked=ITEMS), histories, windows)
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


def test_nearby_places_share_cells_of_two_grids():
    near = np.array([[48.137, 11.575], [48.138, 11.574], [48.6, 11.575], [-48.137, -11.575]])
    fine_N, coarse_N = grid_cells(near.astype(np.float32)).T
    assert fine_N[0] == fine_N[1] != fine_N[2]
    assert coarse_N[0] == coarse_N[1] == coarse_N[2] != coarse_N[3]
    assert fine_N.max() < CELL_ROWS <= coarse_N.min() < coarse_N.max() < 2 * CELL_ROWS


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
def test_row_scores_the_same_alone_and_in_any_batch(miniature_model, miniature_checkpoint):
    histories, windows = random_tokens()
    together = miniature.score(miniature_model, histories, windows)
    alone = [
        miniature.score(miniature_model, [history], [window])
        for history, window in zip(histories, windows, strict=True)
    ]
    for name in together._fields[:-1]:
        stacked = np.concatenate([getattr(scores, name) for scores in alone])
        np.testing.assert_allclose(getattr(together, name), stacked, 1e-5, 1e-5, err_msg=name)
    small_batches = ProfileModel.load(
        miniature_checkpoint[0], device="cpu", batch_rows=7, length_buckets=(4, 5, 20)
    )
    assert_scores_equal(together, miniature.score(small_batches, histories, windows))


@pytest.mark.slow
def test_scores_have_the_documented_shapes_and_ranges(miniature_model):
    histories, windows = random_tokens()
    scores = miniature.score(miniature_model, histories, windows)
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
    assert {value.dtype.name for value in scores[:-1]} == {"float32", "int32"}


@pytest.mark.slow
def test_unknown_ids_and_missing_history_are_scored(miniature_model):
    unknown = [Token(FIRST_DAY_MS, kind, f"?{kind}", "\ud800 new", -3.0) for kind in range(12)]
    no_ids = [Token(0, 0, "", "", 1e9)]
    scores = miniature.score(miniature_model, [[], [], unknown, []], [unknown, no_ids, [], []])
    assert all(np.isfinite(value).all() for value in scores[:-1])
    assert scores.surprise[2:].tolist() == [0, 0]
    assert scores.embedding_before[3].tolist() == scores.embedding_after[3].tolist()
    assert len(miniature.score(miniature_model, [], []).surprise) == 0


# What makes the CPU wait for a GPU.
WAITS = {
    *(Tensor.cpu, Tensor.numpy, Tensor.item, Tensor.tolist, Tensor.nonzero, Tensor.__bool__),
    *(Tensor.__int__, Tensor.__float__, Tensor.__index__, torch.masked_select, torch.nonzero),
}


def test_all_passes_start_before_the_first_result_is_read(network, monkeypatch):
    calls, trunk = [], BehaviourTransformer.trunk

    class RecordsWaits(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func in WAITS:
                calls.append("wait")
            return func(*args, **(kwargs or {}))

    def recorded(*args):
        calls.append("pass")
        return trunk(*args)

    monkeypatch.setattr(BehaviourTransformer, "trunk", recorded)
    with RecordsWaits():
        score(profile_model(network, batch_rows=8), *random_users())
    assert calls.index("wait") == calls.count("pass") == 7


# The first four numbers that sentence-transformers 6.2.0 returns for all-MiniLM-L6-v2.
PUBLISHED = (0.0284567, -0.0059969, 0.0226263, -0.0018348)


@pytest.mark.slow
def test_vectors_of_texts_equal_those_of_sentence_transformers_in_any_batch():
    vectors = text_encoder.encode(["yogurt with fruit", "", "word " * 400])
    np.testing.assert_allclose(vectors[0, :4], PUBLISHED, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 0, 1], atol=1e-5)
    alone = text_encoder.encode(["yogurt with fruit"])
    np.testing.assert_allclose(alone[0], vectors[0], atol=1e-6)
