"""The fraud model: training on card transactions, saving and loading, calibration, downsampling."""

import json
from pathlib import Path

import numpy as np
import pytest

from liveprofile.errors import InputError
from models.fraud.datasets.event_dataset import downsample_legitimate
from models.fraud.model import CARD_FILE, TREES_FILE, FraudModel, probability
from models.fraud.training.fit import fit_calibration
from tests.unit.models.fraud.conftest import TrainedModel

pytestmark = pytest.mark.slow


def test_saved_and_loaded_model_gives_the_same_scores_and_files(
    trained: TrainedModel, tmp_path: Path
) -> None:
    model = trained.model
    model.save(tmp_path)
    loaded = FraudModel.load(tmp_path)
    assert loaded.version == model.version
    assert np.array_equal(loaded.score(trained.columns), model.score(trained.columns))
    for name in (CARD_FILE, TREES_FILE):
        assert (tmp_path / name).read_bytes() == (trained.folder / name).read_bytes()


def test_score_does_not_depend_on_the_batch(trained: TrainedModel) -> None:
    scores = trained.model.score(trained.columns)
    for row in (0, 17, len(scores) - 1):
        single = {name: values[row : row + 1] for name, values in trained.columns.items()}
        assert trained.model.score(single)[0] == scores[row]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "format 9, this version reads 2"),
        ({"names": ["moon_phase"]}, "unknown feature moon_phase"),
    ],
)
def test_card_with_unknown_format_or_feature_is_rejected(
    trained: TrainedModel, tmp_path: Path, change: dict, message: str
) -> None:
    trained.model.save(tmp_path)
    card = json.loads((tmp_path / CARD_FILE).read_text())
    (tmp_path / CARD_FILE).write_text(json.dumps({**card, **change}))
    with pytest.raises(InputError, match=message):
        FraudModel.load(tmp_path)


def test_missing_or_broken_model_file_is_rejected(trained: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        FraudModel.load(tmp_path)
    trained.model.save(tmp_path)
    (tmp_path / TREES_FILE).write_bytes(b"no model")
    with pytest.raises(InputError, match="fraud model"):
        FraudModel.load(tmp_path)


def test_downsampling_keeps_all_frauds_and_weights_the_other_rows() -> None:
    fraud = np.arange(1_000) % 50 == 0
    rows, weight = downsample_legitimate(fraud, legitimate=98)
    assert fraud[rows].sum() == fraud.sum()
    assert (~fraud[rows]).sum() * weight == (~fraud).sum()
    assert downsample_legitimate(fraud)[1] == 1.0


def test_calibrated_score_equals_the_share_of_frauds() -> None:
    random = np.random.default_rng(3)
    true_log_odds = np.sort(random.normal(-2, 2, 60_000))
    fraud = random.random(60_000) < probability(true_log_odds)
    overconfident = true_log_odds * 3 + 5
    slope, intercept = fit_calibration(overconfident, fraud)
    score = probability(slope * overconfident + intercept)
    for part in np.array_split(np.arange(60_000), 10):
        noise = 4 * np.sqrt(score[part].mean() / len(part))
        assert fraud[part].mean() == pytest.approx(score[part].mean(), abs=noise)
