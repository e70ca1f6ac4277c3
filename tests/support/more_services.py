"""Services that a test adds to the stack: ZooKeeper, a second TaskManager, a Cassandra ring."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cassandra import ConsistencyLevel, DriverException, ProtocolVersion
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.policies import WhiteListRoundRobinPolicy

from liveprofile.flink.launcher import environment, java_command, link_jars, write_configuration
from stack.cassandra import CassandraNode
from stack.cluster import TaskManager
from stack.process import Service, is_listening
from stack.state import LOOPBACK, StackState

HEAP_MB = 320  # of a node of the ring
TOGETHER_TIMEOUT_S = 120
TOKEN_RANGE = 2**64 // 3


class ZooKeeper(Service):
    """The server that is part of Flink; `flink_options` make a cluster highly available."""

    name = "zookeeper"

    @property
    def port(self) -> int:
        return self.state.ports("zookeeper")["zookeeper"]

    def flink_options(self) -> dict[str, Any]:
        return {
            "high-availability.type": "zookeeper",
            "high-availability.zookeeper.quorum": f"{LOOPBACK}:{self.port}",
            # A new JobManager waits this long for the end of a killed one.
            "high-availability.zookeeper.client.session-timeout": "30 s",
            "high-availability.storageDir": (self.folder / "ha").as_uri(),
            "high-availability.jobmanager.port": self.state.ports("flink_ha")["flink_ha"],
        }

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        write_configuration(self.folder / "conf", {})
        link_jars(self.folder / "lib")
        (self.folder / "tmp").mkdir(exist_ok=True)
        config = self.folder / "zoo.cfg"
        config.write_text(
            f"dataDir={self.folder / 'data'}\nclientPort={self.port}\n"
            f"clientPortAddress={LOOPBACK}\ntickTime=2000\nadmin.enableServer=false\n"
        )
        main_class = "org.apache.flink.runtime.zookeeper.FlinkZooKeeperQuorumPeer"
        arguments = ["--zkConfigFile", str(config), "--peerId", "1"]
        command = [*java_command(self.folder, main_class, "-Xmx128m"), *arguments]
        return command, environment(self.folder)

    def ready(self) -> bool:
        return is_listening(self.port)


class SecondTaskManager(TaskManager):
    name = "second-taskmanager"


class RingNode(CassandraNode):
    """The node `number`, from 0, of three; each has a third of the tokens."""

    def __init__(self, root: Path, state: StackState, number: int):
        self.name, self.host = f"cassandra-{number + 1}", f"127.0.0.{number + 1}"
        self.ring = f"initial_token: {(number - 1) * TOKEN_RANGE}\nauto_bootstrap: false"
        super().__init__(root, state, HEAP_MB)


@contextmanager
def cassandra_ring(root: Path) -> Iterator[list[RingNode]]:
    """Three nodes that can read from each other."""
    state = StackState(root)
    nodes = [RingNode(root, state, number) for number in range(3)]
    try:
        for node in nodes:  # one after the other: the later ones ask the first for the schema
            node.start()
        for node in nodes:
            _wait_until_it_reaches_all(node)
        yield nodes
    finally:
        for node in nodes:
            node.stop()


def _wait_until_it_reaches_all(node: CassandraNode) -> None:
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
