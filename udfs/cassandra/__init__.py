"""Cassandra writes of the Python workers: batches, requests, flag state."""
