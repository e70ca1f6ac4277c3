"""Compressed variants of the user model, and how their speed is measured."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.load.workload import Workload
from lab.benchmarks import training_rows
from lab.benchmarks.model_inputs import model_inputs
from lab.user_model import compression, model_speed
from lab.user_model.model_speed import ScoreTiming
from liveprofile.errors import InputError
from liveprofile.settings import load
from liveprofile.units import DAY_MS
from tests.support.rows.profile_input import batches
from tests.unit.models.profile.miniature import assert_scores_equal
from tests.unit.models.profile.test_inference import (
    DECAY_DAYS,
    profile_model,
    random_users,
    score,
)
from tests.unit.models.profile.test_inference import (
    network as network_fixture,
)

network = network_fixture


@pytest.mark.parametrize("name", ["bfloat16", "bfloat16 outputs", "int8"])
def test_quantized_model_gives_similar_scores(network, name):
    histories, windows = random_users()
    exact = score(profile_model(network), histories, windows)
    form = compression.FORMS[name](network)
    quantized = score(profile_model(form.model), histories, windows)
    cosine = (exact.embedding_after * quantized.embedding_after).sum(1)
    assert cosine.min() > 0.99
    assert abs(exact.surprise - quantized.surprise).max() < 0.3
    assert (exact.next_items == quantized.next_items).mean() > 0.7
    np.testing.assert_allclose(quantized.churn_after, exact.churn_after, atol=0.1)


def test_compressed_sizes_equal_the_stored_bytes(network):
    sizes = {name: make(network).size_bytes for name, make in compression.FORMS.items()}
    weights = sum(value.numel() for value in network.state_dict().values())
    assert (
        sizes["float32"] == 2 * weights and compression.float32(network).size_bytes == 4 * weights
    )
    assert sizes["int8"] < sizes["bfloat16"] < sizes["bfloat16 outputs"] == 4 * weights
    # Half of 64 hidden units in two layers, each with a row of 16 and a column of 16.
    assert sizes["float32"] - sizes["half the hidden units"] == 2 * 2 * 32 * 32


def test_pruning_removes_hidden_units_without_effect(network):
    histories, windows = random_users()
    half_idle = compression.pruned(network, 1.0).model
    for block in half_idle.blocks:
        block.down.weight[:, ::2] = 0
        block.up.weight[::2] *= 100
    pruned = compression.pruned(half_idle, 0.5).model
    assert [block.up.weight.shape[0] for block in pruned.blocks] == [32, 32]
    assert_scores_equal(
        score(profile_model(pruned), histories, windows),
        score(profile_model(half_idle), histories, windows),
        1e-5,
    )


def test_speed_ratio_is_the_median_over_rounds():
    reference = [
        [ScoreTiming(100, 1.0, 2.0)],
        [ScoreTiming(100, 4.0, 2.0)],
        [ScoreTiming(100, 2.0, 2.0)],
    ]
    ours = [
        [ScoreTiming(100, 0.5, 1.0)],
        [ScoreTiming(100, 1.0, 0.5)],
        [ScoreTiming(100, 2.0, 1.0)],
    ]
    assert model_speed.summary(ours, reference) == {
        "rows_per_s": 100,
        "ratio": 2.0,
        "cpu_us_per_row": 10_000.0,
        "cpu_ratio": 2.0,
    }
    both = [[ScoreTiming(100, 0.5, 0.5), ScoreTiming(100, 1.0, 0.5)]]
    assert model_speed.summary(both, both) == {
        "rows_per_s": 200,
        "ratio": 1.0,
        "cpu_us_per_row": 5_000.0,
        "cpu_ratio": 1.0,
    }


def test_recorded_rows_lie_in_the_requested_period(tmp_path):
    settings = load(window=training_rows.WINDOW)
    training_rows.write(training_rows.workload_of_windows(300), settings, tmp_path)
    until_ms = Workload().start_ms + 20 * DAY_MS
    batch = model_speed.recorded_rows(tmp_path, until_ms - 9 * DAY_MS, until_ms)
    assert len(batch.user_id) > 50
    assert batch.window_end_ms.tolist() == sorted(batch.window_end_ms)
    assert until_ms - 9 * DAY_MS < batch.window_end_ms[0] and batch.window_end_ms[-1] <= until_ms
    inputs = model_inputs(batch, DECAY_DAYS)
    histories, windows, before_BX, after_BX, _, memories = inputs
    assert len(windows.sizes) == len(histories.sizes) == len(before_BX) == len(batch.user_id)
    assert (before_BX != after_BX).any() and histories.sizes.sum() > 0

    # A history made of rows of a backfill is that of the job.
    def histories(rows):
        ends_ms = rows.window_end_ms.tolist()
        return set(zip(rows.user_id, ends_ms, rows.history, rows.purchases, strict=True))

    messages = training_rows.workload_of_windows(300).messages()
    assert histories(batch) <= set().union(*map(histories, batches(messages, settings, 1_000)))
    assert len(memories.sizes) == len(batch.user_id)
    table = pq.read_table(tmp_path).drop_columns(["sums"])
    pq.write_table(table, tmp_path / "bare.parquet")
    with pytest.raises(InputError, match="sums"):
        model_speed.recorded_rows(tmp_path / "bare.parquet", 0, until_ms)
