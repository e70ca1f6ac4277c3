"""One of three Cassandra nodes is down. Each has a copy of all rows; two must acknowledge a write.

Load: steady. Fault: kill -9 of one node, restart after 20 s and when the alert fires.
Must hold: no write is lost, every profile equals the reference's, and no task restarts.
Recovery: not needed; the writes go to the other two nodes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from cassandra import ConsistencyLevel, DriverException, ProtocolVersion
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.policies import WhiteListRoundRobinPolicy

from stack.cassandra import CassandraNode
from stack.state import StackState
from tests.faults.jobs.loaded_job import WINDOW, LoadedJob, open_loaded_job
from tests.faults.monitoring.alerts import Fires
from tests.support.job_under_test import JobUnderTest

pytestmark = pytest.mark.faults

DOWN_S = 20
TOGETHER_TIMEOUT_S = 120
HEAP_MB = 320
TOKENS = (-(2**63) // 3 * 2, 0, 2**63 // 3 * 2)


class FirstNode(CassandraNode):
    name = "cassandra-1"
    ring = f"initial_token: {TOKENS[0]}\nauto_bootstrap: false"


class SecondNode(CassandraNode):
    name, host = "cassandra-2", "127.0.0.2"
    ring = f"initial_token: {TOKENS[1]}\nauto_bootstrap: false"


class ThirdNode(CassandraNode):
    name, host = "cassandra-3", "127.0.0.3"
    ring = f"initial_token: {TOKENS[2]}\nauto_bootstrap: false"


def wait_until_it_reaches_all(node: CassandraNode) -> None:
    """Returns when the node can read from all replicas of a keyspace with three."""
    profile = ExecutionProfile(
        load_balancing_policy=WhiteListRoundRobinPolicy([node.host]),
        consistency_level=ConsistencyLevel.ALL,
    )
    cluster = Cluster(
        [node.host],
        port=node.port,
        protocol_version=ProtocolVersion.V5,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
    )
    deadline_s = time.monotonic() + TOGETHER_TIMEOUT_S
    try:
        session = cluster.connect()
        while True:
            try:
                session.execute("SELECT * FROM system_distributed.repair_history LIMIT 1")
                return
            except (DriverException, NoHostAvailable):
                if time.monotonic() > deadline_s:
                    raise
            time.sleep(0.2)
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[CassandraNode]]:
    root: Path = tmp_path_factory.mktemp("replicas")
    state = StackState(root)
    nodes = [kind(root, state, HEAP_MB) for kind in (FirstNode, SecondNode, ThirdNode)]
    try:
        for node in nodes:  # one after the other: the later ones ask the first for the schema
            node.start()
        for node in nodes:
            wait_until_it_reaches_all(node)
        yield nodes
    finally:
        for node in nodes:
            node.stop()


@pytest.fixture(scope="module")
def replicated_job(
    new_job: Callable[..., JobUnderTest], nodes: Sequence[CassandraNode]
) -> Iterator[LoadedJob]:
    replicated = {
        "contact_points": [node.host for node in nodes],
        "port": nodes[0].port,
        "replication": len(nodes),
        "consistency": "LOCAL_QUORUM",
    }
    job = new_job("replicas", window=WINDOW, cassandra=replicated)
    job.submit()
    with open_loaded_job(job) as loaded_job:
        yield loaded_job


def test_killed_replica_causes_no_restart(
    replicated_job: LoadedJob, nodes: Sequence[CassandraNode], fires: Fires
) -> None:
    restarts = replicated_job.job.restarts()
    cluster = replicated_job.session.cluster
    assert {host.address for host in cluster.metadata.all_hosts()} == {node.host for node in nodes}
    with replicated_job.load():
        with fires(replicated_job.job, "LiveprofileCassandraNodeDown"):
            with replicated_job.recovery("one of three Cassandra nodes killed"):
                nodes[1].kill()
            time.sleep(DOWN_S)
        nodes[1].start()
    replicated_job.check()
    assert replicated_job.job.restarts() == restarts
