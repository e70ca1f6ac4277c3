from __future__ import annotations

import pytest

from liveprofile.drift.reference import DriftReference
from tests.support.rows.drift_data import make_reference


@pytest.fixture(scope="session")
def reference() -> DriftReference:
    return make_reference()
