"""The page of a user, now or at an earlier time, and the explanation of a window."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Annotated, NamedTuple
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from console.access import THROUGH, Reader, Visitor, form_of
from console.formats import listed, number, share, utc, words
from console.rendering import page, part_page
from console.user_page import interests, mean_affinity, user_page
from liveprofile.client.analysis_models import ExplainedEvent, Explanation
from liveprofile.client.models import MAX_ID_CHARS
from liveprofile.errors import LiveprofileError
from liveprofile.storage.queries import similar_users
from serve.keys import Role
from serve.problems import ApiError, to_api_error
from serve.routes.common import DataStore, Time, to_ms
from serve.routes.explanations import COST, explain_window
from serve.security import Caller
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
    store: DataStore,
    caller: Reader,
    id: Annotated[str, Query(max_length=MAX_ID_CHARS)] = "",
    at: Annotated[Time | None, Query()] = None,
    segment: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """`at`: the profile as of the last window that ended at this time or earlier."""
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
        store.read(similar_users, id, SIMILAR_USERS),
        store.user_segments(id),
        _groups(store, segment),
    )
    user = user_page(
        profile,
        await _until(store, deltas, id, until_ms),
        [flag for flag in flags if flag.window_end_ms <= until_ms],
        at_ms,
        request.app.state.clock_ms(),
    )
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
        may_explain=request.app.state.explainer is not None and caller.role.includes(Role.ANALYST),
    )


async def _until(
    store: Store, latest: Sequence[RawDelta], user_id: str, until_ms: int
) -> Sequence[RawDelta]:
    """The windows until then: among the latest, or read if all of these are later."""
    found = [delta for delta in latest if delta.window_end_ms <= until_ms]
    if found or len(latest) < MAX_WINDOWS:
        return found
    return await store.deltas(user_id, until_ms, MAX_WINDOWS)


async def _groups(store: Store, segment: str) -> dict[str, dict[str, float]]:
    """Everyone, and the segment if there is one: the means of up to GROUP_USERS users each."""
    everyone, members = await asyncio.gather(
        store.some_profiles(GROUP_USERS), _members(store, segment)
    )
    groups = {f"everyone ({len(everyone)} users)": mean_affinity(everyone)}
    if members:
        groups[f"segment {segment} ({len(members)} users)"] = mean_affinity(members)
    return groups


async def _members(store: Store, segment: str) -> list[RawProfile]:
    if not segment:
        return []
    members = await store.segment_members(segment, None, GROUP_USERS)
    return await store.profiles([each.user_id for each in members], embedding=False)


PART = "parts/explanation.html"


@router.post("/user/explain")
async def explain(
    request: Request, caller: Annotated[Caller, Depends(Visitor(Role.ANALYST, COST))]
) -> Response:
    """Explains the window of a user that ends at a time: fields id, end. Takes about a minute."""
    fields = await form_of(request)
    user_id, end_ms = fields.get("id", ""), _time_ms(fields.get("end", ""))
    if not 0 < len(user_id) <= MAX_ID_CHARS:
        raise ApiError(422, "invalid-request", f"id: 1 to {MAX_ID_CHARS} characters")
    request.state.user_id = user_id
    requested = {"at_ms": end_ms} | THROUGH
    values = {"heading": f"Window of user {user_id}", "back": f"/user?id={quote(user_id, safe='')}"}
    try:
        found = await explain_window(request, caller, user_id, end_ms, requested)
    except LiveprofileError as error:
        answer = to_api_error(error)
        return part_page(request, PART, status=answer.status, refused=answer.detail, **values)
    model = Explanation.model_validate(found)
    values |= {"explanation": model, "explained": explained_values(model)}
    return part_page(request, PART, refused="", **values)


def _time_ms(text: str) -> int:
    """Raises ApiError 422."""
    try:
        time_ms = int(text)
    except ValueError:
        time_ms = -1
    if not 0 <= time_ms <= END_OF_TIME_MS:
        raise ApiError(422, "invalid-request", "end: the time at which a window ends, in ms")
    return time_ms


SHOWN_EVENTS = 10
NAMED_INTERESTS = 3
SMALLEST_POINTS = 0.1
# What is not said by the name of the type.
DEEDS = {"cart": "addition to the cart", "favorite": "addition to the favourites"}


class Value(NamedTuple):
    """What the events of a window did to one value, the strongest first."""

    heading: str
    summary: str
    sentences: list[str]
    rest: str  # about the events without a sentence


def explained_values(found: Explanation) -> list[Value]:
    before, stored = found.before, found.stored
    churn = f"{share(before.churn)} before the window, {share(stored.churn)} after it."
    spend = number(before.expected_spend), number(stored.expected_spend)
    return [
        Value("Risk of churn", churn, *_sentences(found, "churn", _churn)),
        Value(
            "Expected spend",
            "{} before the window, {} after it.".format(*spend),
            *_sentences(found, "expected_spend", _spend),
        ),
        Value(
            "Interests",
            _strongest(stored.interests),
            *_sentences(found, "interests", _interests),
        ),
    ]


def _strongest(interests: Mapping[str, float]) -> str:
    if not interests:
        return "None are stored, or the user does not allow recommendations."
    top = sorted(interests, key=lambda name: -interests[name])[:NAMED_INTERESTS]
    named = [f"{name} ({share(interests[name])})" for name in top]
    return f"Largest after the window: {listed(named)}."


def _sentences(
    found: Explanation, value: str, sentence: Callable[[ExplainedEvent], str]
) -> tuple[list[str], str]:
    """The sentences of the events that move a value most, and what is said of the others."""
    effect = attrgetter(value)
    moving = sorted(filter(effect, found.effects), key=lambda each: -abs(effect(each)))
    if not moving:
        return [], "No event of the window changes this value."
    weaker, still = len(moving[SHOWN_EVENTS:]), len(found.effects) - len(moving)
    parts = [f"{weaker} have a smaller effect"] if weaker else []
    parts += [f"{still} have no effect"] if still else []
    return (
        [f"Without {_event(each)}, {sentence(each)}." for each in moving[:SHOWN_EVENTS]],
        f"Of the other events, {listed(parts)}." if parts else "",
    )


def _event(event: ExplainedEvent) -> str:
    what = f"this {DEEDS.get(event.event_type, words(event.event_type))}"
    if event.item:
        what += f" of {event.item}"
    details = [event.category] if event.category else []
    details += [number(event.amount)] if event.amount else []
    details.append(utc(event.time_ms).partition(" ")[2])
    return f"{what} ({', '.join(details)})"


def _churn(event: ExplainedEvent) -> str:
    points = 100 * abs(event.churn)
    if points < SMALLEST_POINTS:
        amount = f"less than {SMALLEST_POINTS} points"
    else:
        text = number(points, 1)
        amount = f"{text} point{'' if text == '1' else 's'}"
    return f"the risk of churn would be {amount} {_direction(event.churn)}"


def _spend(event: ExplainedEvent) -> str:
    text = number(abs(event.expected_spend))
    amount = "less than 0.01" if text == "0" else text
    return f"the expected spend would be {amount} {_direction(event.expected_spend)}"


def _interests(event: ExplainedEvent) -> str:
    moved = [
        f"{category} would be {share(without)} instead of {share(stored)}"
        for category, without, stored in event.moved_interests
        if share(without) != share(stored)
    ]
    return f"the share of {listed(moved)}" if moved else "shares would differ by less than 1 %"


def _direction(effect: float) -> str:
    """Of the value without the event against the stored one."""
    return "higher" if effect < 0 else "lower"
