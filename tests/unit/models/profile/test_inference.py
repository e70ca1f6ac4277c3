"""Inference against a plain reference implementation."""

import copy

import numpy as np
import pytest
import torch

from liveprofile.events.modalities import PLACE, Modality
from liveprofile.units import DAY_MS
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import Token
from models.profile import user_features
from models.profile.inference import ProfileModel
from models.profile.network import CELL_ROWS, BehaviourTransformer, Fusion, Shape, grid_cells
from models.profile.ranker.network import Ranker
from models.profile.values import INPUTS, ValueCurveHead
from tests.reference.plain_model import PlainProfileModel
from tests.unit.models.profile.miniature import assert_scores_equal, memories_of

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
