"""Rows of a row class for tests, with only the fields that a test is about."""

from typing import Any

from liveprofile.rows.profiles import USER_PROFILE
from liveprofile.storage.queries import StoredProfile

_BY_TYPE = {"text": "m", "int": 1, "bigint": 7, "double": 1.0, "timestamp": 0}


def profile_fields() -> dict[str, Any]:
    """A value for each field of a profile."""
    return {column.field: _BY_TYPE.get(column.cql, ()) for column in USER_PROFILE.columns.values()}


def stored_profile(**fields: Any) -> StoredProfile:
    """A profile with some fields; the others have any value of their type."""
    return StoredProfile(**profile_fields() | {"embedding": []} | fields)
