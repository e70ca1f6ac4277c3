"""The demo's display survives a service that does not answer in time."""

from __future__ import annotations

from typing import Any

import pytest

from cli.demo import watch
from liveprofile.errors import ServiceError, ServiceUnavailableError
from liveprofile.settings import load


class Reads:
    """Stands in for the reads of `JobWatcher`: raises `error` while it is set."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.offsets = {0: 7}

    def committed_offsets(self, *_: Any) -> dict[int, int]:
        if self.error:
            raise self.error
        return self.offsets


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    reads = Reads()
    monkeypatch.setattr(watch.offsets, "committed_offsets", reads.committed_offsets)
    monkeypatch.setattr(watch.offsets, "partition_ranges", lambda *_: {})
    monkeypatch.setattr(watch, "read_topic", lambda *_: [])
    monkeypatch.setattr(watch, "execute", lambda *_: [])
    return reads


def test_look_without_an_answer_returns_the_last_state(reads: Reads) -> None:
    watcher = watch.JobWatcher(None, load())
    assert watcher.look().read == 7
    reads.error = ServiceUnavailableError("OperationTimedOut")
    assert watcher.look().read == 7
    assert watcher.skipped == 1
    reads.error, reads.offsets = None, {0: 9}
    assert watcher.look().read == 9


def test_look_that_is_refused_raises(reads: Reads) -> None:
    reads.error = ServiceError("unauthorized")
    with pytest.raises(ServiceError, match="unauthorized"):
        watch.JobWatcher(None, load()).look()
