"""Windows of users who were erased or did not allow their use."""

from typing import Any

import numpy as np
import pytest

from liveprofile.consent.changes import ConsentChange, ConsentTable
from liveprofile.features.baselines import COLUMNS
from liveprofile.privacy.erasures import ErasureTable
from liveprofile.segments.membership import Membership
from liveprofile.settings import load
from liveprofile.wire.histories import history_since, purchases_since, read_histories
from liveprofile.wire.tokens import EVENT, FIELD, WINDOW
from tests.support.memory.sinks import MemoryProfileSink
from tests.unit.udfs.profile.batches import END_MS, FailingModel, batch, feeds
from udfs.privacy import LaterMemberships
from udfs.profile.batch import LaterWindows, ProfileBatch, StoredSums, SumsKey
from udfs.profile.update import ProfileUpdater

LENGTH_MS = 100


def table(**before_ms: int) -> ErasureTable:
    found = ErasureTable()
    for user_id, time_ms in before_ms.items():
        found.put(user_id, time_ms)
    return found


def window(end_ms: int, *times_ms: int) -> str:
    tokens = (FIELD.join((str(time_ms), "d", "i", "c", "2.5")) for time_ms in times_ms)
    return EVENT.join((str(end_ms), *tokens))


def test_history_keeps_later_windows_and_purchases() -> None:
    text = WINDOW.join((window(200, 110, 120), window(300, 260), window(400, 320)))
    assert history_since(text, 100) == text
    assert history_since(text, 200) == WINDOW.join((window(300, 260), window(400, 320)))
    assert history_since(text, 300) == window(400, 320)
    assert purchases_since("120 260", 100) == "120 260"
    assert purchases_since("120 260", 200) == "260" and purchases_since("120", 200) == ""
    starts_ms = np.array([300, 300, 200])
    found = read_histories(
        [text, history_since(text, 300), text], ["120 320", "", "120"], starts_ms, 1
    )
    assert found.tokens.sizes.tolist() == [1, 0, 1]
    assert found.last_purchase_ms.tolist() == [120, 0, 120]
    assert found.last_purchase_ms_now.tolist() == [320, 0, 120]


class Job:
    """Flink's state of one user, a store, and workers that may restart."""

    def __init__(self) -> None:
        self.stored: dict[int, StoredSums] = {}  # by window end
        self.windows: list[int] = []
        self.restarts: list[str] = []
        self.reads = 0
        self.start_worker()

    def start_worker(self) -> None:
        self.worker = LaterWindows(self, LENGTH_MS, self.restarts.append)

    def later_sums(self, keys: list[SumsKey]) -> list[StoredSums | None]:
        self.reads += len(keys)
        return [
            max(
                (each for end_ms, each in self.stored.items() if end_ms < key.window_end_ms),
                default=None,
            )
            for key in keys
        ]

    def rows(self, starts_ms: list[int], erased: ErasureTable) -> list[float]:
        """Runs windows, each of which adds its start to every sum; returns a sum of each."""
        added = np.repeat(np.array(starts_ms, float)[:, None], len(COLUMNS), axis=1)
        sums = added + 1_000_000
        count = len(starts_ms)
        history = [window(start_ms + LENGTH_MS, start_ms + 1) for start_ms in starts_ms]
        starts = np.array(starts_ms)
        texts = ([], history, [""] * count)
        tiles = ['{"carts":{"tiles":[[100,2,2.0],[1000,1,1.0]]}}'] * count
        batch = ProfileBatch(["a"] * count, starts, starts + LENGTH_MS, *texts, added, sums, tiles)
        found, users = self.worker.without_past(batch, erased)
        if users:
            assert set(found.attribute_tiles) == {'{"carts":{"tiles":[[1000,1,1.0]]}}'}
            for start_ms, row in zip(starts_ms, found.sums, strict=True):
                end_ms = start_ms + LENGTH_MS
                self.stored[end_ms] = StoredSums(end_ms, tuple(row.tolist()))
        assert (found.sums == found.sums[:, :1]).all()
        return found.sums[:, 0].tolist()


def test_sums_start_from_nothing_and_go_on_after_restarts_and_replays() -> None:
    job, erased = Job(), table(a=450)
    assert job.rows([500, 600], erased) == [500, 1_100]
    assert job.rows([800], erased) == [1_900]
    assert job.restarts == ["a"] and job.reads == 1
    job.start_worker()
    assert job.rows([600, 800, 900], erased) == [1_100, 1_900, 2_800]  # a replay
    assert job.rows([500], erased) == [500]
    assert job.rows([600, 800], erased) == [1_100, 1_900]
    assert job.rows([900, 1_000], erased) == [2_800, 3_800]


def test_a_second_erasure_starts_again() -> None:
    job = Job()
    job.rows([500, 600], table(a=450))
    assert job.rows([800], table(a=750)) == [800]
    assert job.rows([900], table(a=750)) == [1_700]
    assert job.restarts == ["a", "a"]
    job.start_worker()
    del job.stored[900], job.stored[1_000]
    assert job.rows([1_000], table(a=750)) == [1_000]  # the rows before it are older


def test_users_who_are_not_erased_cost_nothing() -> None:
    job = Job()
    assert job.rows([500], table(b=900)) == [1_000_500]
    assert not job.reads and not job.stored and not job.restarts


@pytest.mark.parametrize(("before_ms", "kept"), [(0, True), (400, True), (401, False)])
def test_memberships_of_erased_windows_do_not_count(before_ms: int, kept: bool) -> None:
    row = Membership(True, 500, 1, True, 500, 1, "", "{}", 500_000)

    class Store:
        def memberships(self, user_ids: Any) -> Any:
            return {user_id: {"loyal": row} for user_id in user_ids}

        def stored_changes(self, keys: Any) -> Any:
            return {}

    store = LaterMemberships(Store(), LENGTH_MS, lambda: table(a=before_ms))
    assert store.memberships(["a", "b"]) == {
        "a": {"loyal": row} if kept else {},
        "b": {"loyal": row},
    }


def test_windows_without_consent_reach_neither_model_nor_tables(model: Any):
    class CountingModel(FailingModel):
        def score(self, history: Any, window: Any, *inputs: Any) -> Any:
            scored.append(len(window.starts) - 1)
            return super().score(history, window, *inputs)

    scored: list[int] = []
    sink, consents = MemoryProfileSink(), ConsentTable(load().consent.defaults)
    consents.put("b", [ConsentChange(END_MS - 1, "profiling", False)])
    counting = CountingModel(model, lambda _: False)
    updater = ProfileUpdater(load(), counting, sink, feeds(consents=consents))
    sent = updater.update(batch("a", "b", "c"))
    assert set(sink.profiles) == {"a", "c"} and sum(scored) == 2
    head, value = sent[1][0].split(WINDOW, 1)
    assert head.split(FIELD)[2:4] == ["NO_CONSENT", "profiling"] and value == ""
    assert [len(records) for records in sent] == [0, 1, 0]
    assert len(updater.update(batch("b"))[0]) == 1 and sum(scored) == 2
