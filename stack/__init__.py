"""The local stack: Kafka, Cassandra and a Flink cluster as plain processes on loopback."""

from liveprofile.resources import STACK_FOLDER

DEFAULT_ROOT = STACK_FOLDER / "run"
