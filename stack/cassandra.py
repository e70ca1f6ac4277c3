"""A Cassandra node: a cluster of its own, or one of several."""

from pathlib import Path
from string import Template

from liveprofile.flink import java
from liveprofile.flink.jars import JARS
from stack.process import Service, is_listening
from stack.state import LOOPBACK, StackState

CONF = Path(__file__).with_name("conf")
# Commit log modes as lines of cassandra.yaml.
COMMIT_LOGS = {
    "batch": "commitlog_sync: batch",
    "periodic": "commitlog_sync: periodic\ncommitlog_sync_period: 10s",
}

RING_DELAY_MS = 30_000


class CassandraNode(Service):
    """A Cassandra node on loopback. `heap_mb`: JVM heap.

    `commit_log`: "batch" acknowledges a write after it is on disk. "periodic" is Cassandra's
    default: a kill -9 can lose up to 100 ms of acknowledged writes, which only replicas could
    restore, and a single node has none.
    """

    name = "cassandra"
    host = LOOPBACK
    # Of cassandra.yaml: a node of several has a token of its own.
    ring = ""

    def __init__(
        self, root: Path, state: StackState, heap_mb: int = 1024, commit_log: str = "batch"
    ):
        super().__init__(root, state)
        self._heap_mb, self._commit_log = heap_mb, commit_log

    @property
    def port(self) -> int:
        return self.state.ports("cassandra")["cassandra"]

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        ports = self.state.ports("cassandra", "cassandra_storage")
        settings = self.folder / "cassandra.yaml"
        template = Template((CONF / "cassandra.yaml").read_text())
        settings.write_text(
            template.substitute(
                host=self.host,
                seed=LOOPBACK,
                ring=self.ring,
                port=ports["cassandra"],
                storage_port=ports["cassandra_storage"],
                folder=self.folder,
                commit_log=COMMIT_LOGS[self._commit_log],
            )
        )
        properties = {
            "cassandra.config": settings.as_uri(),
            "cassandra.storagedir": self.folder / "data",
            "cassandra.logdir": self.folder,
            "logback.configurationFile": CONF / "cassandra-logback.xml",
            # No node streams data when it joins, so there is nothing to wait for. A node of several
            # gives up if its seed has not answered after this time (Gossiper.doShadowRound).
            "cassandra.skip_wait_for_gossip_to_settle": 0,
            "cassandra.ring_delay_ms": RING_DELAY_MS if self.ring else 0,
            "java.awt.headless": "true",
        }
        command = [
            str(java.home() / "bin" / "java"),
            f"@{CONF / 'cassandra-jvm17.options'}",
            f"-Xms{self._heap_mb}m",
            f"-Xmx{self._heap_mb}m",
            "-XX:MaxDirectMemorySize=512m",
            *(f"-D{key}={value}" for key, value in properties.items()),
            "-cp",
            f"{JARS / 'cassandra'}/*",
            "org.apache.cassandra.service.CassandraDaemon",
        ]
        return command, {}

    def ready(self) -> bool:
        return is_listening(self.port, self.host)
