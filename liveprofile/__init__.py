"""Liveprofile: real-time user profiles on Flink, Kafka and Cassandra."""

__version__ = "0.1.0"
