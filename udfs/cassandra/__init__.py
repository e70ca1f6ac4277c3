"""Cassandra writes of the Python workers: encoding, batching, retries and the flag cache."""
