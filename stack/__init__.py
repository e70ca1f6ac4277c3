"""The local stack: Kafka, Cassandra and a Flink cluster as plain processes on loopback."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
JARS = PROJECT / ".stack" / "lib"
DEFAULT_ROOT = PROJECT / ".stack" / "run"
