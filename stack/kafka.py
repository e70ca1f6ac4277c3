"""A Kafka process that is both broker and controller (KRaft)."""

import subprocess
from pathlib import Path
from string import Template

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from liveprofile.errors import ServiceError
from liveprofile.flink import java
from liveprofile.flink.jars import JARS
from stack.process import Service, is_listening
from stack.state import LOOPBACK

CONF = Path(__file__).with_name("conf")
HEAP = ("-Xms512m", "-Xmx512m")
CLUSTER_ID = "bGl2ZXByb2ZpbGUtbG9jYQ"  # any 22 characters of URL-safe base64


class KafkaBroker(Service):
    """A single Kafka node on loopback."""

    name = "kafka"

    @property
    def port(self) -> int:
        return self.state.ports("kafka")["kafka"]

    @property
    def bootstrap_servers(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        ports = self.state.ports("kafka", "kafka_controller")
        properties = self.folder / "server.properties"
        template = Template((CONF / "server.properties").read_text())
        properties.write_text(
            template.substitute(
                host=LOOPBACK,
                port=ports["kafka"],
                controller_port=ports["kafka_controller"],
                folder=self.folder,
            )
        )
        base = [
            str(java.home() / "bin" / "java"),
            "-XX:+UseG1GC",
            f"-Dlog4j2.configurationFile={CONF / 'kafka-log4j2.properties'}",
            "-cp",
            f"{JARS / 'kafka'}/*",
        ]
        if not (self.folder / "data" / "meta.properties").is_file():
            self._format(base, properties)
        return [base[0], *HEAP, *base[1:], "kafka.Kafka", str(properties)], {}

    def _format(self, base: list[str], properties: Path) -> None:
        tool = ["kafka.tools.StorageTool", "format", "--standalone", "-t", CLUSTER_ID, "-c"]
        done = subprocess.run(
            [*base, *tool, str(properties)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ServiceError(f"Kafka could not format {self.folder}: {done.stderr.strip()}")

    def ready(self) -> bool:
        if not is_listening(self.port):
            return False
        client = AdminClient(
            {"bootstrap.servers": self.bootstrap_servers, "log_level": 0, "socket.timeout.ms": 2000}
        )
        try:
            return bool(client.list_topics(timeout=2).brokers)
        except KafkaException:
            return False
