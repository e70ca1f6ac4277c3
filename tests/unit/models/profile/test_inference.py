"""What serving makes of a model's weights, against the same said plainly; cheaper forms of it."""

import copy
import dataclasses
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.load.load import Load
from benchmarks.models import compression, model_speed, training_rows
from benchmarks.models.model_speed import Took
from benchmarks.models.variant import Plain
from liveprofile.config import WindowSettings, load
from liveprofile.errors import InputError
from liveprofile.events.modalities import PLACE, Modality
from liveprofile.units import DAY_MS
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import Token
from models.profile import user_features
from models.profile.encoding import Vocabulary
from models.profile.inference import ProfileModel
from models.profile.modality_layers import CELL_ROWS, Fusion, cells
from models.profile.network import BehaviourTransformer, Shape

START_MS = 1_500_000_000_000
MODALITIES = (Modality("clip", 5), PLACE, Modality("voice", 2))
ITEMS, CATEGORIES, RANKED, DECAY_DAYS = 60, 14, 12, 30.0


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(4)
    shape = Shape(ITEMS, 8, CATEGORIES, 4, dim=16, layers=2, heads=2, max_len=16, embedding=8)
    model = BehaviourTransformer(shape)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model.eval().requires_grad_(False)


def served(network, kind=ProfileModel, ranked=RANKED, batch_rows=512):
    card = {"version": "x", "revision": 1, "decay_days": DECAY_DAYS, "ranked_items": ranked}
    items, categories = ([f"{k}{n}" for n in range(of)] for k, of in (("i", ITEMS), ("c", 14)))
    return kind(
        network, items, categories, card,
        device=torch.device("cpu"), batch_rows=batch_rows, length_buckets=(4, 8),
    )  # fmt: skip


def people(count=50):
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
    numbers = random.uniform(0, 5, (2, len(histories), len(user_features.NUMBERS))).astype(
        np.float32
    )
    return model.score(TokenColumns.of(histories), TokenColumns.of(windows), *numbers, vectors)


def assert_near(one, other, tolerance):
    for name, value in one._asdict().items():
        if name != "batches":
            np.testing.assert_allclose(
                value, getattr(other, name), tolerance, tolerance, err_msg=name
            )


def test_next_items_are_the_best_of_the_frequent_and_those_had(network):
    histories, windows = people()
    model = served(network)
    found = score(model, histories, windows).next_items
    rows = Vocabulary(model.items, network.shape.item_buckets)
    rare = 0
    for history, window, ours in zip(histories, windows, found, strict=True):
        tokens = history + window
        known = model._encoder.known(TokenColumns.of([history]), TokenColumns.of([window]))
        batch = model._encoder.encode(known, np.array([0]), (16,))
        h_PD = network.trunk(torch.from_numpy(batch.features_P7), batch.groups)
        h_1D = h_PD[torch.from_numpy(batch.after_B)]
        count = {}
        for token in tokens:
            row = rows.index[token.item]
            if 1 <= row <= ITEMS:
                age = (tokens[-1].time_ms - token.time_ms) / DAY_MS
                count[row - 1] = count.get(row - 1, 0.0) + math.exp(-age / DECAY_DAYS)
        logits_I, repeat = network.item_logits(h_1D)[0], network.repeats(h_1D)[1].item()
        said = {
            item: logits_I[item].item() + repeat * math.log1p(count.get(item, 0.0))
            for item in {*range(RANKED), *count}
        }
        assert ours.tolist() == sorted(said, key=lambda item: -said[item])[:10]
        rare += sum(item >= RANKED for item in ours.tolist())
    assert rare > 50


def test_what_was_had_is_counted_by_row_and_code():
    random = np.random.default_rng(1)
    for size in (0, 1, 500):
        row, code = random.integers(0, 9, size), random.integers(0, 7, size)
        weight = random.random(size)
        found = user_features.had(row, code, weight, 7)
        assert (np.diff(found.row_M * 7 + found.code_M) > 0).all()
        expected = user_features.had_dense(row, code, weight, 9, 7)
        np.testing.assert_allclose(found.dense(9, 7), expected, 1e-5)


def test_surprise_is_the_same_in_parts(network):
    histories, windows = people()
    model = served(network)
    whole = score(model, histories, windows)
    model._positions = 3
    assert_near(score(model, histories, windows), whole, 1e-5)


def test_serving_says_what_the_plain_model_says(network):
    histories, windows = people()
    plain = served(network, Plain, ranked=ITEMS, batch_rows=16)
    assert_near(
        score(served(network, ranked=ITEMS), histories, windows),
        score(plain, histories, windows),
        1e-4,
    )


def brought(count, seed=10):
    """A third of the rows bring nothing."""
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


def test_what_a_window_brings_is_told_to_what_comes_next_and_to_nothing_else(network, fused):
    histories, windows = people()
    vectors = brought(len(histories))
    without = score(served(network, batch_rows=16), histories, windows)
    found = score(served(fused, batch_rows=16), histories, windows, vectors)
    moved = np.array([bool(one) for one in vectors])
    assert 10 < moved.sum() < 50
    for name, value in found._asdict().items():
        if name in ("interests_after", "interests_after_p", "next_items"):
            changed = (value != getattr(without, name)).any(1)
            assert (changed == moved).all() if name == "interests_after_p" else changed.any()
            assert not (changed & ~moved).any()
        elif name != "batches":
            np.testing.assert_array_equal(value, getattr(without, name), name)
    plain = served(fused, Plain, ranked=ITEMS, batch_rows=16)
    whole = score(served(fused, ranked=ITEMS), histories, windows, vectors)
    assert_near(whole, score(plain, histories, windows, vectors), 1e-4)


def test_a_model_that_reads_nothing_beside_tokens_says_the_same_with_it(network, fused):
    histories, windows = people()
    without = score(served(network), histories, windows)
    vectors = brought(len(histories))
    for model, given in ((network, vectors), (fused, [{}] * len(vectors)), (fused, ())):
        assert_near(score(served(model), histories, windows, given), without, 0)


def test_cells_are_those_of_two_grids():
    near = np.array([[48.137, 11.575], [48.138, 11.574], [48.6, 11.575], [-48.137, -11.575]])
    fine_N, coarse_N = cells(near.astype(np.float32)).T
    assert fine_N[0] == fine_N[1] != fine_N[2]
    assert coarse_N[0] == coarse_N[1] == coarse_N[2] != coarse_N[3]
    assert fine_N.max() < CELL_ROWS <= coarse_N.min() < coarse_N.max() < 2 * CELL_ROWS


@pytest.mark.parametrize("name", ["bfloat16", "bfloat16 outputs", "int8"])
def test_a_coarser_form_says_nearly_the_same(network, name):
    histories, windows = people()
    exact = score(served(network), histories, windows)
    form = compression.FORMS[name](network)
    coarse = score(served(form.model), histories, windows)
    cosine = (exact.embedding_after * coarse.embedding_after).sum(1)
    assert cosine.min() > 0.99
    assert abs(exact.surprise - coarse.surprise).max() < 0.3
    assert (exact.next_items == coarse.next_items).mean() > 0.7
    np.testing.assert_allclose(coarse.churn_after, exact.churn_after, atol=0.1)


def test_sizes_are_those_of_a_file(network):
    sizes = {name: make(network).size_bytes for name, make in compression.FORMS.items()}
    weights = sum(value.numel() for value in network.state_dict().values())
    assert (
        sizes["float32"] == 2 * weights and compression.float32(network).size_bytes == 4 * weights
    )
    assert sizes["int8"] < sizes["bfloat16"] < sizes["bfloat16 outputs"] == 4 * weights
    # Half of 64 hidden units in two layers, each with a row of 16 and a column of 16.
    assert sizes["float32"] - sizes["half the hidden units"] == 2 * 2 * 32 * 32


def test_pruning_leaves_out_what_says_least(network):
    histories, windows = people()
    idle = compression.pruned(network, 1.0).model
    for block in idle.blocks:
        block.down.weight[:, ::2] = 0
        block.up.weight[::2] *= 100
    half = compression.pruned(idle, 0.5).model
    assert [block.up.weight.shape[0] for block in half.blocks] == [32, 32]
    assert_near(
        score(served(half), histories, windows), score(served(idle), histories, windows), 1e-5
    )


def test_a_ratio_is_the_median_over_the_rounds():
    reference = [[Took(100, 1.0, 2.0)], [Took(100, 4.0, 2.0)], [Took(100, 2.0, 2.0)]]
    ours = [[Took(100, 0.5, 1.0)], [Took(100, 1.0, 0.5)], [Took(100, 2.0, 1.0)]]
    assert model_speed.summary(ours, reference) == {
        "rows_per_s": 100, "ratio": 2.0, "cpu_us_per_row": 10_000.0, "cpu_ratio": 2.0,
    }  # fmt: skip
    both = [[Took(100, 0.5, 0.5), Took(100, 1.0, 0.5)]]
    assert model_speed.summary(both, both) == {
        "rows_per_s": 200, "ratio": 1.0, "cpu_us_per_row": 5_000.0, "cpu_ratio": 1.0,
    }  # fmt: skip


def test_recorded_rows_are_those_of_a_time(tmp_path):
    settings = load(window=training_rows.WINDOW)
    training_rows.write(training_rows.load_of(300), settings, tmp_path)
    until_ms = Load().start_ms + 20 * DAY_MS
    batch = model_speed.recorded(tmp_path, until_ms - 9 * DAY_MS, until_ms)
    assert len(batch.user_id) > 50
    assert batch.window_end_ms.tolist() == sorted(batch.window_end_ms)
    assert until_ms - 9 * DAY_MS < batch.window_end_ms[0] and batch.window_end_ms[-1] <= until_ms
    histories, windows, before_BX, after_BX = model_speed.inputs(batch, DECAY_DAYS)
    assert len(windows.sizes) == len(histories.sizes) == len(before_BX) == len(batch.user_id)
    assert (before_BX != after_BX).any() and histories.sizes.sum() > 0
    table = pq.read_table(tmp_path).drop_columns(["history"])
    pq.write_table(table, tmp_path / "bare.parquet")
    with pytest.raises(InputError, match="history"):
        model_speed.recorded(tmp_path / "bare.parquet", 0, until_ms)


def test_generated_rows_are_the_last_of_the_load():
    small = dataclasses.replace(Load.of(4_000, 300), hours=1)
    batch = model_speed.generated(small)
    assert len(batch.user_id) == min(model_speed.ROWS, small.profiles(WindowSettings()))
    assert batch.window_end_ms.max() == small.end_ms
