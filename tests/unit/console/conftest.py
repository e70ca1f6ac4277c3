"""The console in this process, on Cassandra and Kafka in memory."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from console.app import create_console
from liveprofile.settings import ServeSettings
from serve.keys import READER, Scopes
from tests.support.memory.api import MemoryApi
from tests.support.paths import ROOT
from tests.support.rows.console_rows import fill_console
from tests.unit.serve.conftest import Clock, clock

__all__ = ["clock"]  # a fixture

STATUS = {
    "state": "RUNNING",
    "checkpoint": {"age_s": 3.0, "duration_ms": 250},
    "lag_events": 17,
    "scoring": None,
    "warnings": [],
}

Browse = Callable[..., TestClient]


class MemoryJob:
    """A job with the status that a test sets; an exception is raised."""

    def __init__(self) -> None:
        self.state: dict[str, Any] | Exception = STATUS

    async def status(self) -> list[dict[str, Any]]:
        if isinstance(self.state, Exception):
            raise self.state
        return [self.state]


ORIGIN = "http://127.0.0.1"
SAME_ORIGIN = {"Origin": ORIGIN}
FETCH = SAME_ORIGIN | {"X-Console": "fetch"}
# Tests share the machine: a page may wait for its turn.
PATIENT = {"deadline_ms": 30_000}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> MemoryApi:
    return fill_console(MemoryApi().install(monkeypatch, clock.now_ms))


@pytest.fixture
def job() -> MemoryJob:
    return MemoryJob()


@pytest.fixture
def browse(api: MemoryApi, job: MemoryJob, clock: Clock) -> Iterator[Browse]:
    """browse(scopes, name="anna", **settings): a browser signed in with these scopes, None: not."""
    models = {"user model": ROOT / "models/checkpoints/default", "other model": ROOT / "none"}
    browsers: list[TestClient] = []

    def make(scopes: Scopes | None = READER, name: str = "anna", **settings: Any) -> TestClient:
        app = create_console(
            ServeSettings(**PATIENT | settings),
            api.store(),
            job,
            models,
            clock_ms=clock.now_ms,
            clock_s=clock.now_s,
        )
        browser = TestClient(app, base_url=ORIGIN)
        browsers.append(browser)
        if scopes is not None:
            key = api.add_key(scopes, name).text
            signed_in = browser.post("/sign-in", data={"key": key}, headers=SAME_ORIGIN)
            assert signed_in.status_code == 200, signed_in.text
        return browser

    yield make
    for browser in browsers:
        browser.close()
