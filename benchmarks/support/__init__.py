"""Helpers that the benchmarks share: job runs, CPU and memory meter, journal, environment."""
