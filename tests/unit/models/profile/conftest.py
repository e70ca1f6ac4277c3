"""One miniature training that several test modules share."""

import pytest

from models.profile.inference import ProfileModel
from models.profile.training.train import train
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
