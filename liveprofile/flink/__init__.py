"""Flink clusters: REST interface, jars, and job submission."""
