"""A client of the read API (docs/api.md), and the models that client and server share.

It needs httpx and pydantic only (requirements-client.txt): neither the model nor Flink nor a
database driver.
"""
