"""The shipped fraud model and rules."""

import tomllib
from typing import Any

import pytest

from liveprofile.resources import product_path
from models.fraud.model import FraudModel
from tests.support.scoring_harness import SETTINGS


@pytest.fixture(scope="module")
def model() -> FraudModel:
    return FraudModel.load(product_path(SETTINGS.scoring.checkpoint))


@pytest.fixture(scope="module")
def shipped_rules() -> list[dict[str, Any]]:
    return tomllib.loads(product_path(SETTINGS.rules).read_text("utf-8"))["rules"]
