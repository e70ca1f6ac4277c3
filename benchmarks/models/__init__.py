"""Benchmarks of the models alone, without Kafka or Flink."""
