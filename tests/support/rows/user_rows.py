"""A row of a user for every table that has rows about users."""

import zlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from cassandra.util import uuid_from_time

from liveprofile.privacy.places import TABLES
from liveprofile.rows.risk import flag_bucket
from liveprofile.rows.users import segment_bucket

TIME, HOUR = datetime(2026, 1, 5, 9, 35), datetime(2026, 1, 5, 9)
TIME_US = 1_767_605_700_000_000
_ENTRY = uuid_from_time(TIME)
_BUCKETS: dict[str, Callable[[str], int]] = {
    "risk_flag_by_day": flag_bucket,
    "campaign_target": lambda user: 0,  # users share a partition
}
_BY_TYPE = {
    **dict.fromkeys(("int", "bigint", "smallint", "tinyint"), 1),
    **{"text": "x", "timestamp": TIME, "timeuuid": _ENTRY, "uuid": _ENTRY},
    **{"double": 0.5, "boolean": True, "blob": b"x"},
}


def user_row(table: str, user: str, about_us: int = TIME_US) -> dict[str, Any]:
    """The user's row of a table, without collections that identify nobody. about_us: its window."""
    about = TIME + timedelta(microseconds=about_us - TIME_US)
    expired = {f"expired-{user}": TIME} if about == TIME else {}
    named = {
        "user_id": user,
        "flag_id": f"flag-{user}",
        "alert_id": f"flag-{user}",
        "target": f"{user} some_rule",
        "bucket": _BUCKETS.get(table, segment_bucket)(user),
        "hour": HOUR,
        "day": TIME.date(),
        "window_start": about,
        "alerts": {f"flag-{user}": about, **expired},
        "segment": "loyal",
        "remaining": "{}",
        "entry": uuid_from_time(TIME, node=zlib.crc32(user.encode()), clock_seq=1),
    }
    row = {
        name: named.get(name, _BY_TYPE.get(column.cql.removesuffix(" static")))
        for name, column in TABLES[table].columns.items()
    }
    return {name: value for name, value in row.items() if value is not None}
