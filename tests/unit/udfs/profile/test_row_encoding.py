"""Encoded rows: the driver decodes the values, and the columns are those of the tables."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from cassandra.cqltypes import lookup_casstype
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.settings import CassandraSettings
from liveprofile.storage.schema import schema_statements
from offline.late_windows.tables import DELTA_MARKS, FLAG_MARKS
from tests.support.rows.profile_rows import DIM, profile_row
from udfs.cassandra import encoding
from udfs.profile import row_encoding

CQL_TYPES = {
    "user_id": "UTF8Type",
    "model_version": "UTF8Type",
    "profile": "UTF8Type",
    "delta": "UTF8Type",
    "window_end": "LongType",
    "window_start": "LongType",
    "write_time": "LongType",
    "events_total": "LongType",
    "feature_version": "Int32Type",
    "events": "Int32Type",
    "digests": "BytesType",
    "segments": "SetType(UTF8Type)",
    "active_rules": "SetType(UTF8Type)",
}


def decode(columns: tuple[str, ...], values: list[bytes | None]) -> dict[str, object]:
    """Decodes values with the driver's types; a column without an entry is a double."""
    decoded = {}
    for column, value in zip((*columns, "write_time"), values, strict=True):
        if column == "embedding":
            decoded[column] = list(struct.unpack(f">{len(value) // 4}f", value))
        else:
            cql_type = lookup_casstype(CQL_TYPES.get(column, "DoubleType"))
            decoded[column] = cql_type.from_binary(value, 5)
    return decoded


@given(
    st.lists(
        st.tuples(
            st.text(min_size=1).filter(lambda text: text.isprintable()),
            st.integers(-(10**12), 4 * 10**12),
            st.floats(allow_nan=False),
            st.none() | st.floats(allow_nan=False),
            st.lists(st.text(max_size=5).filter(str.isprintable), max_size=4),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_driver_decodes_the_encoded_rows(cases):
    rows = [
        profile_row(
            user,
            window_start_ms=end_ms - 300_000,
            window_end_ms=end_ms,
            churn=churn,
            recency_days=recency,
            segments=segments,
            revision=3,
            embedding=np.array([1.5, -2.0], np.float32),
        )
        for user, end_ms, churn, recency, segments in cases
    ]
    encoded = row_encoding.encode_rows(rows, 2)
    for row, key, profile, delta in zip(
        rows, encoded.keys, encoded.profiles, encoded.deltas, strict=True
    ):
        assert key == row.user_id.encode()
        assert encoding.write_time_us(row) == row.window_end_ms * 1_000 + 3
        decoded = decode(row_encoding.PROFILE_COLUMNS, profile)
        assert set(decoded.pop("segments")) == set(row.segments)
        assert decoded == {
            "user_id": row.user_id,
            "window_end": row.window_end_ms,
            "window_start": row.window_start_ms,
            "model_version": "test-1",
            "feature_version": 1,
            "churn": row.churn,
            "expected_spend": 12.5,
            "recency_days": row.recency_days,
            "purchases_decayed": 1.5,
            "amount_decayed": 20.25,
            "events_total": 7,
            "profile": '{"interests":{"café":0.5}}',
            "embedding": [1.5, -2.0],
            "write_time": encoding.write_time_us(row),
        }
        decoded = decode(row_encoding.DELTA_COLUMNS, delta)
        assert (decoded["events"], decoded["amount"], decoded["surprise"]) == (2, 20.25, 3.5)
        assert (decoded["digests"], decoded["delta"]) == (row.digests, row.delta_json.decode())
        assert decoded["write_time"] == encoding.write_time_us(row)


def test_embedding_of_another_size_is_rejected():
    with pytest.raises(ValueError, match=rf"shape \({DIM},\): the tables need \(32,\)"):
        row_encoding.encode_rows([profile_row()], 32)


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("user_profile", row_encoding.PROFILE_COLUMNS),
        ("profile_delta", (*row_encoding.DELTA_COLUMNS, *DELTA_MARKS)),
        ("replaced_delta", (*row_encoding.DELTA_COLUMNS, *DELTA_MARKS)),
        ("user_lookalike", row_encoding.LOOKALIKE_COLUMNS),
        ("risk_flag", (*encoding.FLAG_COLUMNS, *FLAG_MARKS)),
        ("risk_flag_by_day", (*encoding.FLAG_BY_DAY_COLUMNS, *FLAG_MARKS)),
    ],
)
def test_columns_are_those_of_the_schema(table, columns):
    statements = schema_statements(CassandraSettings(), 2)
    [create] = [text for text in statements if f"liveprofile.{table} (\n" in text]
    body = create.split("(\n", 1)[1].split("\n)", 1)[0]
    created = {line.split()[0] for line in body.splitlines() if line.strip()}
    assert created - {"PRIMARY"} == set(columns)
