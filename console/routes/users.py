"""The page of a user, now or at an earlier time."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from console.access import Visitor
from console.rendering import page
from console.user_page import interests, mean_affinity, user_page
from liveprofile.storage.queries import similar_users
from serve.keys import Scope
from serve.routes.common import TimeMs
from serve.security import Call
from serve.store.statements import END_OF_TIME_MS
from serve.store.store import Store
from services.requests import MAX_ID_CHARS

MAX_WINDOWS = 200
MAX_FLAGS = 100
SIMILAR_USERS = 8
GROUP_USERS = 200

router = APIRouter()


@router.get("/user")
async def user(
    call: Annotated[Call, Depends(Visitor(Scope.PROFILES))],
    id: Annotated[str, Query(max_length=MAX_ID_CHARS)] = "",
    at: Annotated[TimeMs | None, Query()] = None,
    segment: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """`at`: the profile as of the last window that ended at this time or earlier."""
    request, store = call.request, call.store
    if not id:
        return page(request, "user_search.html", user_id="", unknown=False)
    request.state.user_id = id
    profiles = await store.profiles([id], embedding=False)
    if not profiles:
        return page(request, "user_search.html", 404, user_id=id, unknown=True)
    [profile] = profiles
    segment = segment or min(profile.segments or (), default="")
    deltas, flags, similar, segments, groups = await asyncio.gather(
        store.deltas(id, END_OF_TIME_MS, MAX_WINDOWS),
        store.flags(id, 0, None, MAX_FLAGS),
        store.read(similar_users, id, SIMILAR_USERS),
        store.user_segments(id),
        _groups(store, segment),
    )
    until_ms = END_OF_TIME_MS if at is None else at
    shown = [delta for delta in deltas if delta.window_end_ms <= until_ms]
    if not shown and len(deltas) == MAX_WINDOWS:  # all of these are later
        shown = await store.deltas(id, until_ms, MAX_WINDOWS)
    may_read = Scope.RISK in call.caller.scopes
    flags = [flag for flag in flags if may_read and flag.window_end_ms <= until_ms]
    user = user_page(profile, shown, flags, at, call.now_ms)
    ends_ms = [delta.window_end_ms for delta in reversed(deltas)]
    return page(
        request,
        "user.html",
        user=user,
        left=[each.segment for each in segments if not each.member],
        interests=interests(user["affinity"], groups),
        similar=similar or [],
        ends_ms=ends_ms,
        position=ends_ms.index(end) if (end := user["as_of_ms"]) in ends_ms else len(ends_ms) - 1,
    )


async def _groups(store: Store, segment: str) -> dict[str, dict[str, float]]:
    """Everyone, and the segment if there is one: the means of up to GROUP_USERS users each."""
    everyone = await store.some_profiles(GROUP_USERS)
    groups = {f"everyone ({len(everyone)} users)": mean_affinity(everyone)}
    if segment:
        ids = [each.user_id for each in await store.segment_members(segment, None, GROUP_USERS)]
        if members := await store.profiles(ids, embedding=False):
            groups[f"segment {segment} ({len(members)} users)"] = mean_affinity(members)
    return groups
