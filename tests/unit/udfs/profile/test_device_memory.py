"""A device without memory: the task fails, and a new model that does not fit is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from liveprofile.kafka.records import Record
from liveprofile.settings import load
from tests.support.memory.topic import FakeTopic
from tests.support.model_folders import copy_model
from tests.support.waiting import until
from udfs.profile import deployment
from udfs.profile.deployment import KEY
from udfs.profile.model_feed import ModelFeed, models_spec
from udfs.worker import DATA_ERRORS

pytestmark = pytest.mark.slow


def test_lack_of_memory_rejects_no_row() -> None:
    assert not issubclass(torch.OutOfMemoryError, DATA_ERRORS)


@pytest.mark.parametrize("canary", [None, 20])
def test_model_without_room_beside_the_old_one_is_refused_and_the_old_one_serves(
    canary: int | None, model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def no_room(_reference: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    topic = FakeTopic()
    feed = ModelFeed(
        models_spec(load()), model, no_room, lambda: topic, poll_timeout_s=0.01, retry_s=0.01
    )
    try:
        reference = deployment.reference_to(str(copy_model(tmp_path, "b")))
        models = deployment.apply(None, reference, canary, "test")
        with caplog.at_level(logging.WARNING):
            value = models.model_dump_json().encode()
            topic.put(Record("user-models", 0, 0, 0, KEY, value, {}))
            until(lambda: feed.refused == 1)
        assert "CUDA out of memory" in caplog.text
        assert feed.current().model is model and feed.current().canary is None
    finally:
        feed.close()
