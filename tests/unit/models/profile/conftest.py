"""One miniature training that several test modules share, and the shipped model with inputs."""

import dataclasses

import pytest

from benchmarks.load.rows import generated_rows, model_inputs
from benchmarks.load.workload import Workload
from models.profile import checkpoint
from models.profile.inference import ProfileModel
from models.profile.training.train import train
from tests.support.model_folders import SHIPPED
from tests.unit.models.profile.miniature import MINIATURE, write_rows


@pytest.fixture(scope="session")
def miniature_rows(tmp_path_factory):
    """The folder of training rows."""
    return write_rows(tmp_path_factory.mktemp("training") / "rows")


@pytest.fixture(scope="session")
def miniature_checkpoint(miniature_rows, tmp_path_factory):
    """The folder of the model checkpoint and the model card."""
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    return folder, train(MINIATURE, miniature_rows, folder)


@pytest.fixture(scope="session")
def miniature_model(miniature_checkpoint):
    return ProfileModel.load(miniature_checkpoint[0], device="cpu")


@pytest.fixture(scope="session")
def shipped():
    """Network, items, categories and card of the shipped checkpoint."""
    return checkpoint.load(SHIPPED)


@pytest.fixture(scope="session")
def shipped_inputs(shipped):
    """The arguments of ProfileModel.score for rows of a generated shop, with memories."""
    workload = dataclasses.replace(Workload.of(4_000, 300), hours=1)
    return *model_inputs(generated_rows(workload), shipped[3].decay_days), 1.0 / 24
