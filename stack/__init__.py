"""The local stack: Kafka, Cassandra and a Flink cluster as processes on the loopback interface."""

from liveprofile.resources import STACK_FOLDER

DEFAULT_ROOT = STACK_FOLDER / "run"
