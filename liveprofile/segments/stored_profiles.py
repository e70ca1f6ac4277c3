"""Reads what segments need of stored profiles, page by page in the order of Cassandra's tokens."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
from cassandra.cluster import Session

from liveprofile.attributes.computed import values_at
from liveprofile.attributes.statements import SEGMENT_PURPOSES, Statement, attribute_values
from liveprofile.attributes.table import AttributeTable
from liveprofile.segments.features import PROFILE_FEATURES, SegmentInputs, features_at
from liveprofile.storage.cql import read, read_pages
from liveprofile.storage.queries import SCAN_PAGE_ROWS, TOKEN_MAX, TOKEN_MIN
from liveprofile.value_curves import ValueCurves
from liveprofile.wire.attribute_tiles import TILES_KEY

_COLUMNS = (
    "user_id, token(user_id) AS user_token, to_unix_timestamp(window_end) AS window_end_ms,"
    " profile, WRITETIME(churn) AS write_time_us"
)
_READ_USERS = 50  # in one SELECT


class ProfilePage(NamedTuple):
    """n stored profiles, by ascending token."""

    user_ids: list[str]
    last_token: int  # of this page
    window_end_ms: np.ndarray  # (n,) int64
    write_time_us: list[int]  # n
    profile: dict[str, np.ndarray]  # (n,) for each of PROFILE_FEATURES
    used_coupon: np.ndarray  # (n,) bool
    interests: list[dict[str, float]]
    affinity: list[dict[str, float]]
    curves: ValueCurves
    attribute_tiles: list[Mapping[str, Any]]  # JSON: liveprofile.wire.attribute_tiles
    statements: Mapping[str, Sequence[Statement]] = {}

    def inputs_at(self, time_ms: int, decay_days: float) -> SegmentInputs:
        """Returns what segments read of these users at a time (`features_at`)."""
        features = features_at(
            self.profile, self.used_coupon, self.window_end_ms, time_ms, decay_days, self.curves
        )
        attributes = [
            attribute_values(self.statements.get(user_id, ()), time_ms, SEGMENT_PURPOSES)
            | values_at(document, time_ms)
            for user_id, document in zip(self.user_ids, self.attribute_tiles, strict=True)
        ]
        return SegmentInputs(features, self.interests, self.affinity, attributes)


def with_attributes(
    pages: Iterable[ProfilePage], table: AttributeTable, after_token: int = TOKEN_MIN
) -> Iterator[ProfilePage]:
    """The pages of a scan that began after `after_token`, with what others state about the users.

    Raises ServiceError.
    """
    for page in pages:
        yield page._replace(statements=table.read_between(after_token, page.last_token))
        after_token = page.last_token


def scan_profiles(
    session: Session, after_token: int = TOKEN_MIN, page_rows: int = SCAN_PAGE_ROWS
) -> Iterator[ProfilePage]:
    """All profiles whose token is above `after_token`, in constant memory. Raises ServiceError."""
    query = session.prepare(
        f"SELECT {_COLUMNS} FROM user_profile WHERE token(user_id) > ? AND token(user_id) <= ?"
        " LIMIT ?"
    )
    while True:
        rows = list(read_pages(session, query, (after_token, TOKEN_MAX, page_rows)))
        if not rows:
            return
        page = profile_page(rows)
        after_token = page.last_token
        yield page


def read_profiles(session: Session, user_ids: Sequence[str]) -> ProfilePage | None:
    """The profiles of these users; None if no user has one. Raises ServiceError."""
    query = session.prepare(f"SELECT {_COLUMNS} FROM user_profile WHERE user_id IN ?")
    rows = [
        row
        for start in range(0, len(user_ids), _READ_USERS)
        for row in read(session, query, (list(user_ids[start : start + _READ_USERS]),))
        if row.profile is not None
    ]
    return profile_page(rows) if rows else None


def profile_page(rows: Sequence[Any]) -> ProfilePage:
    """Parses rows of user_profile."""
    profiles = [orjson.loads(row.profile) for row in rows]
    values = np.array(
        [[profile["features"].get(name) for name in PROFILE_FEATURES] for profile in profiles],
        np.float64,
    )
    return ProfilePage(
        [row.user_id for row in rows],
        rows[-1].user_token,
        np.array([row.window_end_ms for row in rows], np.int64),
        [row.write_time_us for row in rows],
        {name: values[:, column] for column, name in enumerate(PROFILE_FEATURES)},
        np.array([profile["used_coupon"] for profile in profiles], bool),
        [profile["interests"] for profile in profiles],
        [profile["category_affinity"] for profile in profiles],
        ValueCurves.of(profiles),
        [profile.get(TILES_KEY, {}) for profile in profiles],
    )
