"""The exporter keeps its connection to Cassandra, and notices an outage between two scans."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from cassandra.cluster import NoHostAvailable, Session

from liveprofile.errors import ServiceError
from liveprofile.settings import Settings, load
from monitoring.cassandra_source import PROBE, CassandraSource
from monitoring.catalogue import Readings

SETTINGS = load()


class Node:
    """A session with three nodes."""

    keyspace = "liveprofile"

    def __init__(self) -> None:
        self.hosts = [SimpleNamespace(is_up=True) for _ in range(3)]
        self.error: Exception | None = None
        self.is_closed = False
        self.cluster = SimpleNamespace(
            metadata=SimpleNamespace(all_hosts=lambda: self.hosts), shutdown=self._shutdown
        )

    def _shutdown(self) -> None:
        self.is_closed = True

    def execute(self, statement: str, values: Any) -> None:
        assert (statement, values) == (PROBE, None)
        if self.error is not None:
            raise self.error


class Cassandra:
    def __init__(self) -> None:
        self.sessions: list[Node] = []
        self.scans = 0
        self.now_s = 0.0
        self.source = CassandraSource(
            SETTINGS, connect=self._connect, scan=self._scan, clock_s=lambda: self.now_s
        )

    def _connect(self, settings: Any) -> Any:
        assert settings == SETTINGS.cassandra
        self.sessions.append(Node())
        return self.sessions[-1]

    def _scan(self, settings: Settings, session: Session) -> Readings:
        self.scans += 1
        readings = Readings()
        readings.add("cases", self.scans, "open")
        return readings

    def read(self) -> dict[str, float]:
        return {
            f"{family.name.removeprefix('liveprofile_')}/{sample.labels['state']}": sample.value
            for family in self.source.read().families()
            for sample in family.samples
        }


@pytest.fixture
def cassandra() -> Cassandra:
    return Cassandra()


def test_tables_are_scanned_at_their_interval_over_one_connection(cassandra: Cassandra) -> None:
    expected = {"cassandra_nodes/up": 3, "cassandra_nodes/down": 0, "cases/open": 1}
    assert cassandra.read() == cassandra.read() == expected
    cassandra.now_s = 300.0
    assert cassandra.read() == expected | {"cases/open": 2}
    assert len(cassandra.sessions) == 1


def test_node_that_is_down_is_counted_and_one_of_unknown_state_is_not(cassandra: Cassandra) -> None:
    cassandra.read()
    one, two, _ = cassandra.sessions[0].hosts
    one.is_up, two.is_up = False, None
    found = cassandra.read()
    assert (found["cassandra_nodes/up"], found["cassandra_nodes/down"]) == (2, 1)


def test_outage_between_two_scans_is_an_error_and_ends_with_a_new_connection(
    cassandra: Cassandra,
) -> None:
    cassandra.read()
    cassandra.sessions[0].error = NoHostAvailable("all are down", {})
    with pytest.raises(ServiceError, match="keyspace liveprofile: no node answers"):
        cassandra.read()
    assert cassandra.sessions[0].is_closed
    assert cassandra.read()["cases/open"] == 1
    assert len(cassandra.sessions) == 2
    cassandra.source.close()
    assert cassandra.sessions[1].is_closed
