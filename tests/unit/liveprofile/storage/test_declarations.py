"""What statements declare of a keyspace."""

from __future__ import annotations

import pytest

from liveprofile.storage.declarations import (
    Table,
    created_columns,
    declare,
    split_statements,
)

CREATE = """
CREATE TABLE IF NOT EXISTS k.score (
    user_id text,               -- a comment; with a semicolon
    hour timestamp,
    sizes frozen<map<text, bigint>>,
    note text static,
    PRIMARY KEY ((user_id, hour), sizes)
) WITH CLUSTERING ORDER BY (sizes DESC)
  AND compaction = {
    'class': 'TimeWindowCompactionStrategy',
    'compaction_window_unit': 'DAYS', 'compaction_window_size': 1
  };
CREATE TABLE IF NOT EXISTS k.user (user_id text PRIMARY KEY, place vector<float, 4>);
CREATE INDEX IF NOT EXISTS user_place ON k.user (place) USING 'sai';
"""


def test_tables_have_columns_keys_and_options() -> None:
    found = declare(split_statements(CREATE))
    assert found.tables["score"] == Table(
        {
            "user_id": "text",
            "hour": "timestamp",
            "sizes": "frozen<map<text, bigint>>",
            "note": "text static",
        },
        ("user_id", "hour"),
        ("sizes",),
        {
            "CLUSTERING ORDER BY": "(sizes DESC)",
            "compaction": "{'class': 'TimeWindowCompactionStrategy',"
            " 'compaction_window_unit': 'DAYS', 'compaction_window_size': 1}",
        },
    )
    assert found.tables["user"] == Table(
        {"user_id": "text", "place": "vector<float, 4>"}, ("user_id",), (), {}
    )
    assert found.indexes == {"user_place": "user (place) USING 'sai'"}


def test_later_statements_change_what_earlier_ones_declare() -> None:
    changes = """
    ALTER TABLE k.user ADD IF NOT EXISTS (age int, place text);
    ALTER TABLE k.score DROP IF EXISTS (note, hours) USING TIMESTAMP 5;
    ALTER TABLE k.score WITH compression = {'class': 'Zstd'} AND gc_grace_seconds = 5;
    CREATE TABLE IF NOT EXISTS k.user (other text PRIMARY KEY);
    DROP INDEX IF EXISTS k.user_place;
    CREATE TABLE IF NOT EXISTS k.gone (a text PRIMARY KEY);
    DROP TABLE IF EXISTS k.gone;
    """
    found = declare(split_statements(CREATE + changes))
    assert found.tables["user"].columns == {
        "user_id": "text",
        "place": "vector<float, 4>",
        "age": "int",
    }
    assert "note" not in found.tables["score"].columns
    assert found.tables["score"].options["compression"] == "{'class': 'Zstd'}"
    assert found.tables["score"].options["gc_grace_seconds"] == "5"
    assert found.indexes == {} and "gone" not in found.tables
    assert created_columns(split_statements(changes)) == {
        "user": {"age", "place", "other"},
        "gone": {"a"},
    }


def test_other_statement_is_refused() -> None:
    with pytest.raises(ValueError, match="TRUNCATE k"):
        declare(["TRUNCATE k.user"])
