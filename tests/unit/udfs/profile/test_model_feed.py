"""ModelFeed on real checkpoints: which model serves after which records of the topic."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from liveprofile.kafka.records import Record
from liveprofile.resources import sha256
from liveprofile.settings import load
from models.profile import deployment
from models.profile.deployment import KEY, UserModels, models_spec
from models.profile.model_card import CARD, WEIGHTS
from tests.support.memory.kafka import FakeTopic
from tests.support.model_folders import SHIPPED, copy_model
from tests.support.waiting import until
from udfs.profile.model_feed import ModelFeed, load_checkpoint, load_reference
from udfs.worker import DATA_ERRORS

SETTINGS = load(model={"device": "cpu"})
USERS = [f"user-{number}" for number in range(200)]


class Models:
    """The records of the topic, as the commands write them, and the folders that they name."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.newest: UserModels | None = None

    def folder(self, version: str, **card_fields: Any) -> Path:
        target = self._folder / version
        return target if target.exists() else copy_model(self._folder, version, **card_fields)

    def apply(self, version: str, canary: int | None = None, **card_fields: Any) -> Record:
        reference = deployment.reference_to(str(self.folder(version, **card_fields)))
        self.newest = deployment.apply(self.newest, reference, canary, "test")
        return self.record()

    def rollback(self) -> Record:
        self.newest = deployment.rollback(self.newest, "test")
        return self.record()

    def record(self) -> Record:
        return raw_record(self.newest.model_dump_json().encode())


def raw_record(value: bytes | None, offset: int = 0) -> Record:
    return Record("user-models", 0, offset, 0, KEY, value, {})


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path)


@pytest.fixture(scope="module")
def configured() -> Any:
    return load_checkpoint(SETTINGS, SHIPPED)


@pytest.fixture
def feed_of(configured: Any) -> Iterator[Callable[..., ModelFeed]]:
    feeds = []

    def open_feed(topic: FakeTopic) -> ModelFeed:
        feeds.append(
            ModelFeed(
                models_spec(SETTINGS),
                configured,
                lambda reference: load_reference(SETTINGS, configured.dim, reference),
                lambda: topic,
                poll_timeout_s=0.01,
                retry_s=0.01,
            )
        )
        return feeds[-1]

    yield open_feed
    for feed in feeds:
        feed.close()


def versions(feed: ModelFeed) -> dict[str, int]:
    """The number of USERS by model version."""
    return {model.version: len(rows) for model, rows in feed.current().split(USERS)}


def _remove_folder(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def test_canary_then_all_then_rollback_which_needs_no_file(
    feed_of: Callable[..., ModelFeed], configured: Any, models: Models
) -> None:
    topic = FakeTopic(models.apply("b", canary=20))
    feed = feed_of(topic)
    before = feed.current()
    shares = versions(feed)
    assert set(shares) == {configured.version, "b"} and 20 < shares["b"] < 60
    assert {model.revision for model, _ in before.split(USERS)} == {feed.revision}
    topic.put(models.apply("b"))
    until(lambda: versions(feed) == {"b": len(USERS)})
    topic.put(models.rollback())
    until(lambda: versions(feed) == {configured.version: len(USERS)})
    assert feed.current().model.revision == deployment.FIRST_REVISION + 2
    topic.put(models.apply("b"), models.apply("c"))
    until(lambda: versions(feed) == {"c": len(USERS)})
    _remove_folder(models.folder("b"))
    topic.put(models.rollback())
    until(lambda: versions(feed) == {"b": len(USERS)})
    assert before.canary_percent == 20  # what a batch has read does not change
    assert configured.revision < deployment.FIRST_REVISION


def test_missing_model_is_refused_and_the_old_one_serves_also_after_a_restart(
    feed_of: Callable[..., ModelFeed],
    models: Models,
    caplog: pytest.LogCaptureFixture,
) -> None:
    topic = FakeTopic(models.apply("b"))
    feed = feed_of(topic)
    serving = feed.current()
    record = models.apply("c")
    _remove_folder(models.folder("c"))
    with caplog.at_level(logging.WARNING):
        topic.put(record)
        until(lambda: feed.refused == 1)
    assert feed.current() is serving
    assert "No such file" in caplog.text and "model b stays in force" in caplog.text

    restarted = feed_of(FakeTopic(record))
    assert versions(restarted) == {"b": len(USERS)}
    assert (restarted.revision, restarted.refused) == (feed.revision, 1)

    topic.put(models.apply("d"))
    until(lambda: versions(feed) == {"d": len(USERS)})
    assert feed.refused == 0


@pytest.mark.parametrize(
    ("card_fields", "reason"),
    [
        ({"decay_days": 7.0}, "state.decay_days = 30, but model b was trained with 7"),
        ({"shape": {"embedding": 16}}, "embeddings of 16 numbers, but the job stores 32"),
        ({"horizon_days": 0}, "horizon_days"),
        (None, "no finite numbers"),
    ],
)
def test_model_that_the_job_cannot_serve_is_refused(
    card_fields: dict[str, Any] | None,
    reason: str,
    feed_of: Callable[..., ModelFeed],
    configured: Any,
    models: Models,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """card_fields: what is wrong on its card; None: its weights are no numbers."""
    folder = models.folder("b")
    record = models.apply("b")
    card = json.loads((folder / CARD).read_text("utf-8")) | (card_fields or {})
    if card_fields is None:
        weights = load_file(folder / WEIGHTS)
        broken = {n: w * np.nan if w.is_floating_point() else w for n, w in weights.items()}
        save_file(broken, folder / WEIGHTS)
        card["sha256"][WEIGHTS] = sha256(folder / WEIGHTS)
    (folder / CARD).write_text(json.dumps(card), encoding="utf-8")
    value = record.value
    for name, known in models.newest.newest.model.sha256.items():
        value = value.replace(known.encode(), sha256(folder / name).encode())
    with caplog.at_level(logging.WARNING):
        feed = feed_of(FakeTopic(raw_record(value)))
    assert feed.current().model is configured and feed.refused == 1
    assert reason in caplog.text


def test_model_without_room_beside_the_old_one_is_refused(
    configured: Any, models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    def no_room(_reference: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    topic = FakeTopic(models.apply("b", canary=20))
    timing = {"poll_timeout_s": 0.01, "retry_s": 0.01}
    with caplog.at_level(logging.WARNING):
        feed = ModelFeed(models_spec(SETTINGS), configured, no_room, lambda: topic, **timing)
    feed.close()
    assert feed.refused == 1 and "CUDA out of memory" in caplog.text
    assert feed.current().model is configured and feed.current().canary is None
    assert not issubclass(torch.OutOfMemoryError, DATA_ERRORS)  # it rejects no row


@pytest.mark.parametrize("value", [None, b"{", b"{}"])
def test_invalid_record_is_refused_until_a_valid_one_follows(
    value: bytes | None, feed_of: Callable[..., ModelFeed], models: Models
) -> None:
    topic = FakeTopic(models.apply("b"))
    feed = feed_of(topic)
    topic.put(raw_record(value, offset=7))
    until(lambda: feed.refused == 1)
    assert versions(feed) == {"b": len(USERS)}
    topic.put(models.apply("c"))
    until(lambda: versions(feed) == {"c": len(USERS)})
    assert feed.refused == 0


def test_record_of_an_older_revision_is_not_served_but_a_later_one_of_the_same_is(
    feed_of: Callable[..., ModelFeed], models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    old = models.apply("b")
    topic = FakeTopic(models.apply("c"))
    feed = feed_of(topic)
    with caplog.at_level(logging.WARNING):
        topic.put(old)
        until(lambda: "is older than revision" in caplog.text)
    assert versions(feed) == {"c": len(USERS)}
    models.newest = UserModels.parse(old.value)  # as if two commands had applied models at once
    topic.put(models.apply("d"))
    until(lambda: versions(feed) == {"d": len(USERS)})
