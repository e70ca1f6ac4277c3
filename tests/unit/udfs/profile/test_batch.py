"""What becomes of rows that the model can't take."""

from __future__ import annotations

import copy

import numpy as np
import orjson
import pytest

from liveprofile.config import load
from liveprofile.events.modalities import PLACE, TEXT, Modality
from liveprofile.features import baselines
from liveprofile.resources import product_path
from liveprofile.rules.rules import read_rules
from liveprofile.wire.tokens import EVENT, FIELD, HEADER
from tests.support.memory_sinks import MemoryProfileSink
from udfs.profile.batch import MOST_FAILED_ROWS, Batch, ProfileUpdater
from udfs.rules_feed import RulesFeed

END_MS = 1_700_000_100_000


def batch(*user_ids: str, more: str = "") -> Batch:
    """One view of each user; more: fields of its event."""
    events, histories = [], []
    for user_id in user_ids:
        payload = (
            f'{{"event_id":"e-{user_id}","user_id":"{user_id}","event_type":"view",'
            f'"event_time":{END_MS - 1}{more}}}'
        )
        events.append(FIELD.join((str(END_MS - 1), "0", "7", payload)))
        header = FIELD.join(("0", HEADER, "", "", "0"))
        histories.append(header + EVENT + FIELD.join((str(END_MS - 1), "A", "", "", "0.0")))
    ends = np.full(len(user_ids), END_MS)
    sums = np.ones((len(user_ids), len(baselines.COLUMNS)))
    return Batch(list(user_ids), ends - 300_000, ends, events, histories, sums, sums)


class Refusing:
    """A model that can't take the rows of some users; the others' it gives `real`."""

    def __init__(self, real, refuses):
        self._real, self._refuses = real, refuses

    def __getattr__(self, name):
        return getattr(self._real, name)

    def score(self, before, window, *numbers):
        if self._refuses(window):
            raise ValueError("odd")
        return self._real.score(before, window, *numbers)


@pytest.fixture(scope="module")
def model():
    from models.profile.inference import ProfileModel

    return ProfileModel.load(product_path(load().model.checkpoint), device="cpu")


def updater(model, refuses) -> tuple[ProfileUpdater, MemoryProfileSink]:
    settings, store = load(), MemoryProfileSink()
    rules = RulesFeed(read_rules(product_path(settings.rules)))
    return ProfileUpdater(settings, Refusing(model, refuses), store, rules), store


@pytest.mark.parametrize("refused", [(), (1,), (0, 2), (0, 1, 2)])
def test_a_row_the_model_cannot_take_is_rejected_alone(model, refused):
    alone = [index in refused for index in range(3)]

    def refuses(windows):
        return bool(refused) if len(windows.starts) > 2 else alone.pop(0)

    updates, store = updater(model, refuses)
    sent = updates.update(batch("a", "b", "c"))
    assert set(store.profiles) == {user for index, user in enumerate("abc") if index not in refused}
    assert [len(messages) for messages in sent] == [int(index in refused) for index in range(3)]
    assert all("SCORING_FAILED" in messages[0] for messages in sent if messages)


def test_a_model_that_takes_nothing_fails_the_task(model):
    updates, store = updater(model, lambda windows: True)
    with pytest.raises(ValueError, match="odd"):
        for _ in range(MOST_FAILED_ROWS + 1):
            updates.update(batch("a"))
    assert not store.profiles


@pytest.mark.parametrize("on", [True, False])
def test_texts_reach_the_model_where_they_are_wanted(model, on):
    settings, told = load(), []
    rules = RulesFeed(read_rules(product_path(settings.rules)))
    reads = copy.copy(model)
    reads.modalities = frozenset({TEXT})
    reads.score = lambda *args: told.extend(args[-1]) or model.score(*args)

    def encode(texts):
        return np.array([[float(len(text))] for text in texts], np.float32)

    updates = ProfileUpdater(
        settings, reads, MemoryProfileSink(), rules, encode_texts=encode if on else None
    )
    updates.update(batch("a", more=',"query":"shoes"'))
    updates.update(batch("b"))
    assert [{name: vector.tolist() for name, vector in one.items()} for one in told] == [
        {TEXT: [5.0]} if on else {}, {}
    ]  # fmt: skip


def test_the_delta_says_whose_vectors_were_read_and_the_metrics_how_many(model):
    settings, store, timings = load(), MemoryProfileSink(), []
    rules = RulesFeed(read_rules(product_path(settings.rules)))
    reads = copy.copy(model)
    reads.modalities = frozenset({Modality("clip", 2), PLACE})
    updates = ProfileUpdater(settings, reads, store, rules, timings.append)
    media = ',"place":{"lat":1,"lon":2},"media_embedding":{"encoder":"%s","vector":[1,2]}'
    updates.update(batch("a", "b", more=media % "clip"))
    updates.update(batch("c", more=media % "other"))
    updates.update(batch("d"))
    told = {user: orjson.loads(row.delta_json)["window"] for (user, _), row in store.deltas.items()}
    assert told["a"]["media"] == told["b"]["media"] == ["clip"]
    assert "media" not in told["c"] | told["d"]
    assert [(one.media_used, one.media_ignored) for one in timings] == [(2, 0), (0, 1), (0, 0)]
