"""The API in this process, on Cassandra and Kafka in memory."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from liveprofile.settings import ServeSettings
from serve.app import create_app
from serve.keys import READER, Scopes
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.support.rows.api_rows import fill

Connect = Callable[..., TestClient]


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.s = 0.0

    def now_s(self) -> float:
        return self.s

    def now_ms(self) -> int:
        return NOW_MS + round(self.s * 1_000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> MemoryApi:
    return fill(MemoryApi().install(monkeypatch, clock.now_ms))


@pytest.fixture
def connect(api: MemoryApi, clock: Clock) -> Iterator[Connect]:
    """connect(scopes, name="anna", **settings): a client with a key of these scopes, None: without.

    store: other settings of the store.
    """
    clients: list[TestClient] = []

    def make(scopes: Scopes | None = READER, name: str = "anna", **settings: Any) -> TestClient:
        store = api.store(**settings.pop("store", {}))
        # Requests of a busy machine have time, unless the test sets a deadline.
        patient = ServeSettings(**{"deadline_ms": 30_000} | settings)
        clocks = {"clock_ms": clock.now_ms, "clock_s": clock.now_s}
        app = create_app(patient, store, **clocks)
        key = None if scopes is None else api.add_key(scopes, name).text
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        client = TestClient(app, base_url="http://127.0.0.1", headers=headers)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


def every_item(client: TestClient, path: str, **params: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    while True:
        page = client.get(path, params=params).raise_for_status().json()
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        params["cursor"] = page["next_cursor"]


def kind_of(answer: Any) -> str:
    return answer.json()["type"].rpartition(":")[2]
