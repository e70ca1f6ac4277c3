"""Models on a CUDA GPU against the same on the CPU: the profile model within bfloat16 precision."""

import numpy as np
import pytest
import torch

from liveprofile.wire.histories import MemoryToken
from liveprofile.wire.histories import of_windows as memories_of
from liveprofile.wire.token_columns import TokenColumns
from liveprofile.wire.tokens import EVENT_TYPES, Token
from models.profile.inference import ProfileModel, Scores
from models.profile.user_features import FEATURE_NAMES
from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU")

CHECKPOINT = ROOT / "models" / "checkpoints" / "default"
ROWS = 1_500  # three forward passes of 512
START_MS = 1_510_000_000_000


def random_rows(
    model: ProfileModel, sizes: tuple[int, int], first_minute: int, seed: int, rows: int = ROWS
) -> TokenColumns:
    random = np.random.default_rng(seed)

    def token(minute: int) -> Token:
        return Token(
            START_MS + 60_000 * minute,
            int(random.integers(len(EVENT_TYPES))),
            model.items[int(random.integers(len(model.items)))] if random.random() < 0.9 else "",
            model.categories[int(random.integers(len(model.categories)))],
            round(float(random.exponential(20)), 2),
        )

    return TokenColumns.of(
        [
            [token(first_minute + number) for number in range(int(random.integers(*sizes)))]
            for _ in range(rows)
        ]
    )


@pytest.fixture(scope="module")
def scores() -> tuple[Scores, Scores]:
    """Scores on the CPU and on the GPU."""
    models = [ProfileModel.load(CHECKPOINT, device=device) for device in ("cpu", "auto")]
    histories, windows = (
        random_rows(models[0], (0, 40), 0, seed=1),
        random_rows(models[0], (1, 20), 60, seed=2),
    )
    for model in models:
        model.warm_up()
    random = np.random.default_rng(3)
    features = [
        random.uniform(0, 5, (ROWS, len(FEATURE_NAMES))).astype(np.float32) for _ in range(2)
    ]
    memories = memories_of(
        [
            [(0, [MemoryToken(0, models[0].items[row], models[0].categories[0])])]
            for row in range(ROWS)
        ]
    )
    cpu, gpu = (model.score(histories, windows, *features, (), memories) for model in models)
    return cpu, gpu


@pytest.mark.parametrize("side", ["before", "after"])
def test_predictions_and_embeddings_equal_those_on_the_cpu(
    scores: tuple[Scores, Scores], side: str
) -> None:
    cpu, gpu = scores
    for name, tolerance in (("churn", 0.03), ("embedding", 0.05)):
        values = [getattr(device, f"{name}_{side}") for device in (cpu, gpu)]
        assert np.abs(values[0] - values[1]).max() < tolerance
    spend = [getattr(device, f"spend_{side}") for device in (cpu, gpu)]
    assert np.all(np.abs(spend[0] - spend[1]) <= 1 + 0.1 * spend[0])
    embedding = [getattr(device, f"embedding_{side}") for device in (cpu, gpu)]
    assert (embedding[0] * embedding[1]).sum(1).min() > 0.999


def test_surprise_equals_that_on_the_cpu(scores: tuple[Scores, Scores]) -> None:
    cpu, gpu = scores
    assert np.abs(cpu.surprise - gpu.surprise).max() < 0.1
    assert np.abs(cpu.surprise - gpu.surprise).mean() < 0.02


def test_top_category_equals_that_on_the_cpu(scores: tuple[Scores, Scores]) -> None:
    cpu, gpu = scores
    assert np.abs(cpu.interests_after_p[:, 0] - gpu.interests_after_p[:, 0]).max() < 0.03
    assert (cpu.interests_after[:, 0] == gpu.interests_after[:, 0]).mean() > 0.95
