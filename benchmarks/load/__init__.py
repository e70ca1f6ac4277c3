"""Benchmark workloads: generated events, their Kafka messages and their operator rows."""
