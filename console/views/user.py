"""The page of a user, computed from stored rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from console.views.activity import Activity, activity
from console.views.figures import Figure, figures
from console.views.interests import Group, InterestChart, interests
from console.views.sentence import who
from console.views.timeline import Timeline, timeline
from liveprofile.storage.queries import SimilarUser, StoredFlag, names_of
from liveprofile.value_curves import KEY, STORED_COLUMNS, values_at
from serve.store.statements import RawDelta, RawProfile, StoredUserSegment


class UserRows(NamedTuple):
    """What is stored about a user. deltas and flags: newest first, of windows before `at_ms`.

    at_ms: None for now, which is now_ms. all_window_ends_ms: of all stored windows, oldest first.
    """

    profile: RawProfile
    deltas: Sequence[RawDelta]
    flags: Sequence[StoredFlag]
    similar: Sequence[SimilarUser]
    segments: Sequence[StoredUserSegment]
    groups: Sequence[Group]
    at_ms: int | None
    now_ms: int
    all_window_ends_ms: Sequence[int]


class UserPage(NamedTuple):
    user_id: str
    sentence: str
    as_of_ms: int | None  # end of the window that the page shows; None: none is stored
    model_version: str
    segments: list[str]  # now
    left: list[str]  # segments that the user has been in
    figures: list[Figure]
    interests: InterestChart
    activity: Activity
    timeline: Timeline
    next_items: list[str]
    similar: Sequence[SimilarUser]
    is_past: bool
    window_ends_ms: list[int]
    position: int  # of the window in window_ends_ms


def user_page(rows: UserRows) -> UserPage:
    """Of the past a profile keeps its figures only: interests, segments and items are of now."""
    row, is_past = rows.profile, rows.at_ms is not None
    stored = orjson.loads(row.profile)
    latest = orjson.loads(rows.deltas[0].delta) if rows.deltas else {}
    features = (latest.get("after") or {}) if is_past else (stored.get("features") or {})
    before = latest.get("before") or {}
    segments = names_of(row.segments)
    shown = rows.deltas[0] if is_past and rows.deltas else row
    as_of_ms = None if is_past and not rows.deltas else shown.window_end_ms
    ends_ms = list(rows.all_window_ends_ms)
    document = latest if is_past else stored
    if document.get(KEY) and as_of_ms is not None:
        time_ms = rows.now_ms if rows.at_ms is None else rows.at_ms
        values = values_at(document, features, as_of_ms, time_ms)
        features = features | {name: values[name] for name in STORED_COLUMNS}
        # The values before the window are those at its end: a later one cannot be compared.
        before = {name: value for name, value in before.items() if name not in STORED_COLUMNS}
    known: dict[str, Any] = {} if is_past else stored
    return UserPage(
        user_id=row.user_id,
        sentence=who([] if is_past else segments, features, known),
        as_of_ms=as_of_ms,
        model_version=rows.deltas[0].model_version
        if is_past and rows.deltas
        else row.model_version,
        segments=segments,
        left=[each.segment for each in rows.segments if not each.member],
        figures=figures(features, before),
        interests=interests(stored.get("category_affinity") or {}, rows.groups),
        activity=activity(rows.deltas, known),
        timeline=timeline(rows.deltas, rows.flags),
        next_items=list(stored.get("next_items") or []),
        similar=rows.similar,
        is_past=is_past,
        window_ends_ms=ends_ms,
        position=ends_ms.index(as_of_ms) if as_of_ms in ends_ms else len(ends_ms) - 1,
    )
