"""Encoded rows: the driver decodes the values of every column of the tables."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from cassandra.cqltypes import lookup_casstype
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.rows.profiles import PROFILE_DELTA, USER_LOOKALIKE, USER_PROFILE
from liveprofile.rows.table import Table
from tests.support.rows.profile_rows import DIM, profile_row
from udfs.profile.row import WRITTEN, encode_rows

TYPES = {
    "text": "UTF8Type",
    "timestamp": "LongType",
    "bigint": "LongType",
    "int": "Int32Type",
    "double": "DoubleType",
    "blob": "BytesType",
    "frozen<set<text>>": "SetType(UTF8Type)",
    "set<text>": "SetType(UTF8Type)",
}


def decode(table: Table, values: list[bytes | None]) -> dict[str, Any]:
    """Decodes values with the driver's types."""
    *values, written_us = values
    decoded: dict[str, Any] = {"write_time": struct.unpack(">q", written_us)[0]}
    for column, value in zip(WRITTEN[table.name], values, strict=True):
        if column.name == "embedding":
            decoded[column.name] = list(struct.unpack(f">{len(value) // 4}f", value))
        else:
            found = lookup_casstype(TYPES[column.cql]).from_binary(value, 5)
            decoded[column.name] = set(found) if "set<" in column.cql else found
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
    encoded = encode_rows(rows, 2)
    assert encoded.keys == [row.user_id.encode() for row in rows]
    for table, of_table in (
        (USER_PROFILE, encoded.profiles),
        (PROFILE_DELTA, encoded.deltas),
        (USER_LOOKALIKE, encoded.lookalikes),
    ):
        for row, values in zip(rows, of_table, strict=True):
            expected: dict[str, Any] = {"write_time": row.window_end_ms * 1_000 + 3}
            for column in WRITTEN[table.name]:
                time = f"{column.name}_ms"
                value = getattr(row, time if hasattr(row, time) else column.name)
                if isinstance(value, bytes) and column.cql == "text":
                    value = value.decode()
                if "set<" in column.cql:
                    value = set(value)
                expected[column.name] = value.tolist() if column.name == "embedding" else value
            assert decode(table, values) == expected


def test_embedding_of_another_size_is_rejected():
    with pytest.raises(ValueError, match=rf"shape \({DIM},\): the tables need \(32,\)"):
        encode_rows([profile_row()], 32)
