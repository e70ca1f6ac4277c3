"""The shipped user model."""

from typing import Any

import pytest

from liveprofile.resources import product_path
from liveprofile.settings import load


@pytest.fixture(scope="module")
def model() -> Any:
    from models.profile.inference import ProfileModel

    return ProfileModel.load(product_path(load().model.checkpoint), device="cpu")
