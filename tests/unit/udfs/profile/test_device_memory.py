"""A device without memory: what the job does, and what it does with a new model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from liveprofile.kafka.records import Record
from liveprofile.settings import load
from models.profile import checkpoint
from models.profile.device import DeviceMemoryError
from models.profile.inference import ProfileModel
from tests.support.memory.sinks import MemoryProfileSink
from tests.support.memory.topic import FakeTopic, until
from tests.support.model_folders import SHIPPED, copy_model
from tests.unit.models.profile.short_of_memory import ShortOfMemory
from tests.unit.udfs.profile.batches import batch, no_segments, shipped_rules
from udfs.failed_rows import DATA_ERRORS
from udfs.profile import deployment
from udfs.profile.batch import ProfileUpdater
from udfs.profile.deployment import KEY
from udfs.profile.model_feed import ModelFeed, require_whole_passes

pytestmark = pytest.mark.slow

USERS = ("a", "b", "c")


def on_small_device(**most: int) -> ProfileModel:
    """The shipped model, where calls of a method with more rows than `most` run out of memory."""
    network, items, categories, card = checkpoint.load(SHIPPED)
    return ProfileModel(
        ShortOfMemory(network, **most),
        items,
        categories,
        card.model_dump(),
        device=torch.device("cpu"),
        batch_rows=512,
        length_buckets=(8, 16, 32),
    )


def updater_of(model: Any, sink: MemoryProfileSink) -> ProfileUpdater:
    return ProfileUpdater(load(), model, sink, shipped_rules(), no_segments())


def test_job_stores_the_profiles_of_halved_passes(model: Any) -> None:
    whole, halved = MemoryProfileSink(), MemoryProfileSink()
    updater_of(model, whole).update(batch(*USERS))
    small = on_small_device(values=2)
    assert updater_of(small, halved).update(batch(*USERS)) == [[], [], []]
    assert small.rows_per_pass == 1
    assert halved.profiles.keys() == whole.profiles.keys() == set(USERS)
    for user in USERS:
        assert halved.profiles[user].profile == whole.profiles[user].profile


def test_row_that_does_not_fit_alone_fails_the_task_and_is_not_rejected() -> None:
    assert not issubclass(DeviceMemoryError, DATA_ERRORS)
    sink = MemoryProfileSink()
    with pytest.raises(DeviceMemoryError, match="single row"):
        updater_of(on_small_device(values=1), sink).update(batch(*USERS))
    assert not sink.profiles


def _no_room() -> ProfileModel:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


def _room_for_few_rows() -> ProfileModel:
    model = on_small_device(values=4)
    model.warm_up()
    require_whole_passes(model, 512)
    return model


def _room_for_no_row() -> ProfileModel:
    model = on_small_device(values=1)
    model.warm_up()
    return model


@pytest.fixture
def feed_of(model: Any) -> Iterator[Callable[..., ModelFeed]]:
    feeds = []

    def open_feed(load_model: Callable[[], ProfileModel], topic: FakeTopic) -> ModelFeed:
        timing = {"poll_timeout_s": 0.01, "retry_s": 0.01}
        feeds.append(ModelFeed(model, lambda reference: load_model(), lambda: topic, **timing))
        return feeds[-1]

    yield open_feed
    for feed in feeds:
        feed.close()


@pytest.mark.parametrize("canary", [None, 20])
@pytest.mark.parametrize(
    ("load_model", "reason"),
    [
        (_no_room, "CUDA out of memory"),
        (_room_for_few_rows, "passes of 2 rows, model.batch_rows is 512"),
        (_room_for_no_row, "single row"),
    ],
)
def test_model_without_room_beside_the_old_one_is_refused_and_the_old_one_serves(
    load_model: Callable[[], ProfileModel],
    reason: str,
    canary: int | None,
    feed_of: Callable[..., ModelFeed],
    model: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    topic = FakeTopic()
    feed = feed_of(load_model, topic)
    reference = deployment.reference_to(str(copy_model(tmp_path, "b")))
    models = deployment.apply(None, reference, canary, "test")
    with caplog.at_level(logging.WARNING):
        value = models.model_dump_json().encode()
        topic.put(Record("user-models", 0, 0, 0, KEY, value, {}))
        until(lambda: feed.refused == 1)
    assert reason in caplog.text
    assert feed.current().model is model and feed.current().canary is None
    sink = MemoryProfileSink()
    ProfileUpdater(load(), model, sink, shipped_rules(), no_segments(), feed=feed).update(
        batch(*USERS)
    )
    assert sink.profiles.keys() == set(USERS)
