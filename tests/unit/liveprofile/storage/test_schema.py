"""The statements that create the Cassandra tables, and the limits of what they keep."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from liveprofile.errors import ConfigError
from liveprofile.settings import MAX_TTL_S, CassandraSettings, load
from liveprofile.storage.schema import schema_statements


def test_settings_and_embedding_size_are_filled_into_the_schema():
    settings = CassandraSettings(keyspace="shop", replication=3, local_dc="eu")
    statements = schema_statements(settings, 7)
    assert statements[0] == (
        "CREATE KEYSPACE IF NOT EXISTS shop"
        " WITH replication = {'class': 'NetworkTopologyStrategy', 'eu': 3}"
    )
    assert all(text.startswith("CREATE ") for text in statements)
    assert not any("{" in text.partition("WITH")[0] for text in statements)
    assert sum("vector<float, 7>" in text for text in statements) == 2


@pytest.mark.parametrize("value", [0, MAX_TTL_S + 1])
def test_ttl_of_a_table_is_at_least_a_second_and_at_most_20_years(value: int) -> None:
    ttls = [
        (name, key)
        for name, section in load()
        if isinstance(section, BaseModel)
        for key in type(section).model_fields
        if key.endswith("_ttl_s")
    ]
    assert len(ttls) >= 5
    for section, key in ttls:
        with pytest.raises(ConfigError, match=rf"{section}.{key} = {value}: Input should be"):
            load(**{section: {key: value}})
