"""Columns of training rows: what the backfill job writes and what trainings read.

The backfill job writes JSON lines with the columns of `PROFILE` or `SCORING`. `liveprofile
model backfill` stores them as Parquet; for the scoring pipeline it adds the fields of the event
(`SCORING_STORED`), so that a training can select events without parsing their lists.
"""

import pyarrow as pa

PROFILE = pa.schema(
    [
        ("user_id", pa.string()),
        ("window_start_ms", pa.int64()),
        ("window_end_ms", pa.int64()),
        ("events", pa.string()),
        ("added", pa.list_(pa.float64())),
        ("sums", pa.list_(pa.float64())),
        ("attribute_tiles", pa.string()),  # JSON: liveprofile.wire.attribute_tiles
    ]
)
# What the model of the stream receives: corrections recompute profiles from it.
PROFILE_INPUT = pa.schema([*PROFILE, ("history", pa.string()), ("purchases", pa.string())])
SCORING = pa.schema([("user_id", pa.string()), ("parts", pa.string())])
SCORING_STORED = pa.schema(
    [
        ("user_id", pa.string()),
        ("event_id", pa.string()),
        ("event_type", pa.string()),
        ("event_ms", pa.int64()),
        ("amount", pa.float64()),
        ("parts", pa.string()),
    ]
)

_SQL_TYPES = {
    pa.string(): "STRING",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.list_(pa.float64()): "ARRAY<DOUBLE>",
}


def columns_sql(schema: pa.Schema) -> str:
    """SQL: the column definitions of a table with this schema."""
    return ", ".join(f"{field.name} {_SQL_TYPES[field.type]}" for field in schema)
