"""The statements that create the Cassandra tables."""

from __future__ import annotations

from liveprofile.settings import CassandraSettings
from liveprofile.storage.schema import schema_statements


def test_settings_and_embedding_size_are_filled_into_the_schema():
    statements = schema_statements(
        CassandraSettings(keyspace="shop", replication=3, local_dc="eu"), 7
    )
    assert statements[0] == (
        "CREATE KEYSPACE IF NOT EXISTS shop"
        " WITH replication = {'class': 'NetworkTopologyStrategy', 'eu': 3}"
    )
    assert all(text.startswith(("CREATE ", "ALTER TABLE ")) for text in statements)
    assert not any("{" in text.partition("WITH")[0] for text in statements)
    assert sum("vector<float, 7>" in text for text in statements) == 2
