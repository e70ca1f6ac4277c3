"""Kafka clients: configuration, topics, offsets, reading and sending records."""
