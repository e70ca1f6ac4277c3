"""Passes on a CUDA GPU: graphs, no waiting, and too little memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from models.profile.inference import ProfileModel, Scores
from models.profile.user_features import FEATURE_NAMES
from tests.gpu.test_cuda import CHECKPOINT, ROWS, random_rows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU"),
]

FREE_BYTES = 16 << 20
Inputs = tuple


@pytest.fixture(scope="module")
def eager() -> ProfileModel:
    model = ProfileModel.load(CHECKPOINT, device="cuda")
    model.warm_up()
    return model


def inputs_of(model: ProfileModel, rows: int) -> Inputs:
    random = np.random.default_rng(3)
    features = [
        random.uniform(0, 5, (rows, len(FEATURE_NAMES))).astype(np.float32) for _ in range(2)
    ]
    histories = random_rows(model, (0, 40), 0, 1, rows)
    return histories, random_rows(model, (1, 20), 60, 2, rows), *features


@pytest.fixture(scope="module")
def inputs(eager: ProfileModel) -> Inputs:
    return inputs_of(eager, ROWS)


def assert_near(actual: Scores, expected: Scores) -> None:
    """Within bfloat16 precision."""
    for name, tolerance in (("embedding_after", 0.05), ("churn_after", 0.03), ("surprise", 0.1)):
        assert np.abs(getattr(actual, name) - getattr(expected, name)).max() < tolerance, name
    assert (actual.interests_after[:, 0] == expected.interests_after[:, 0]).mean() > 0.95
    assert (actual.next_items[:, 0] == expected.next_items[:, 0]).mean() > 0.9


def test_graphs_give_the_scores_of_eager_passes(eager: ProfileModel, inputs: Inputs) -> None:
    graphed = ProfileModel.load(CHECKPOINT, device="cuda", cuda_graphs=True)
    graphed.warm_up()
    assert graphed.has_graphs
    expected = eager.score(*inputs)
    for _ in range(2):  # the second replays on what the first left in the graphs' memory
        assert_near(graphed.score(*inputs), expected)
    few = inputs_of(eager, 3)
    assert_near(graphed.score(*few), eager.score(*few))


@pytest.fixture
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def test_pass_does_not_wait_for_the_gpu(
    eager: ProfileModel, inputs: Inputs, waiting_is_an_error: None
) -> None:
    histories, windows, *features = inputs
    tokens = eager._encoder.index_tokens(histories, windows)
    rows = np.argsort(eager._encoder.lengths(histories.sizes, windows.sizes))[:64]
    batch = eager._encoder.encode(tokens, rows, (8, 16, 32))
    numbers = np.concatenate([side[rows] for side in features])
    with torch.inference_mode():
        eager._forward(batch, numbers, None, by_memory=False)


def test_too_little_memory_halves_the_passes(eager: ProfileModel, inputs: Inputs) -> None:
    expected = eager.score(*inputs)
    model = ProfileModel.load(CHECKPOINT, device="cuda", batch_rows=ROWS)
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved() + FREE_BYTES
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(limit / total)
    try:
        scores = model.score(*inputs)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert model.rows_per_pass < ROWS
    assert_near(scores, expected)
