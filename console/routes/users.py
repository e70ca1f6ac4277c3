"""The page of a user, now or at an earlier time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from console.access import Reader
from console.rendering import page
from console.views.interests import Group, mean_affinity
from console.views.user import UserRows, user_page
from liveprofile.client.models import MAX_ID_CHARS
from serve.keys import Role
from serve.routes.common import Time, to_ms
from serve.store.statements import END_OF_TIME_MS, RawDelta, RawProfile
from serve.store.store import Store

MAX_WINDOWS = 200
MAX_FLAGS = 100
SIMILAR_USERS = 8
GROUP_USERS = 200

router = APIRouter()


@router.get("/user")
async def user(
    request: Request,
    caller: Reader,
    id: Annotated[str, Query(max_length=MAX_ID_CHARS)] = "",
    at: Annotated[Time | None, Query()] = None,
    segment: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """`at`: the profile as of the last window that ended at this time or earlier."""
    store: Store = request.app.state.store
    if not id:
        return page(request, "user_search.html", user_id="", unknown=False)
    request.state.user_id = id
    profiles = await store.profiles([id], embedding=False)
    if not profiles:
        return page(request, "user_search.html", 404, user_id=id, unknown=True)
    [profile] = profiles
    at_ms = None if at is None else to_ms(at)
    until_ms = END_OF_TIME_MS if at_ms is None else at_ms
    segment = segment or min(profile.segments or (), default="")
    deltas, flags, similar, segments, groups = await asyncio.gather(
        store.deltas(id, END_OF_TIME_MS, MAX_WINDOWS),
        store.flags(id, 0, None, MAX_FLAGS),
        store.similar(id, SIMILAR_USERS, None),
        store.user_segments(id),
        _groups(store, segment),
    )
    rows = UserRows(
        profile,
        await _until(store, deltas, id, until_ms),
        [flag for flag in flags if flag.window_end_ms <= until_ms],
        similar or [],
        segments,
        groups,
        at_ms,
        request.app.state.clock_ms(),
        [delta.window_end_ms for delta in reversed(deltas)],
    )
    may_explain = request.app.state.explainer is not None and caller.role.includes(Role.ANALYST)
    return page(
        request, "user.html", user=user_page(rows), segment=segment, may_explain=may_explain
    )


async def _until(
    store: Store, latest: Sequence[RawDelta], user_id: str, until_ms: int
) -> Sequence[RawDelta]:
    """The windows until then: among the latest, or read if all of these are later."""
    found = [delta for delta in latest if delta.window_end_ms <= until_ms]
    if found or len(latest) < MAX_WINDOWS:
        return found
    return await store.deltas(user_id, until_ms, MAX_WINDOWS)


async def _groups(store: Store, segment: str) -> list[Group]:
    """Everyone, and the segment if there is one: the means of up to GROUP_USERS users each."""
    everyone, members = await asyncio.gather(
        store.some_profiles(GROUP_USERS), _members(store, segment)
    )
    groups = [Group(f"everyone ({len(everyone)} users)", mean_affinity(everyone))]
    if members:
        groups.append(Group(f"segment {segment} ({len(members)} users)", mean_affinity(members)))
    return groups


async def _members(store: Store, segment: str) -> list[RawProfile]:
    if not segment:
        return []
    members = await store.segment_members(segment, None, GROUP_USERS)
    return await store.profiles([each.user_id for each in members], embedding=False)
