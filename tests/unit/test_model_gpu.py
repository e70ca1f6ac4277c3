"""The same scores on a card as on the CPU, within what bfloat16 allows."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.runtime import ProfileModel
from udfs.columns import TokenColumns
from udfs.events import Token

pytestmark = pytest.mark.gpu
CHECKPOINT = Path(__file__).parents[2] / "models" / "checkpoints" / "default"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")
def test_a_card_scores_as_the_cpu_does():
    models = [ProfileModel.load(CHECKPOINT, device=device) for device in ("cpu", "cuda")]
    random = np.random.default_rng(1)
    items, categories = models[0].items, models[0].categories

    def tokens(size, minute):
        return [
            Token(
                1_510_000_000_000 + 60_000 * (minute + n),
                int(random.integers(12)),
                items[int(random.integers(len(items)))],
                categories[int(random.integers(len(categories)))],
                float(random.random() * 20),
            )
            for n in range(size)
        ]

    histories = [tokens(int(random.integers(0, 40)), 0) for _ in range(700)]
    windows = [tokens(int(random.integers(1, 20)), 60) for _ in range(700)]
    for model in models:
        model.warm_up()
    columns = TokenColumns.of(histories), TokenColumns.of(windows)
    cpu, card = (model.score(*columns) for model in models)
    assert np.abs(cpu.churn_after - card.churn_after).max() < 0.02
    assert np.abs(cpu.surprise - card.surprise).max() < 0.1
    assert (cpu.embedding_after * card.embedding_after).sum(1).min() > 0.999
    assert sum(batch.milliseconds > 0 for batch in card.batches) == len(card.batches)
