"""Benchmarks whose figures seldom change: restarts, segments, storage, memory of batch work."""
