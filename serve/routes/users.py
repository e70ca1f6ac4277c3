"""Profiles and what follows from them, by user."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from liveprofile.attributes.statements import resolve
from liveprofile.client import models
from liveprofile.client.models import Items, Page
from liveprofile.storage.queries import similar_users
from serve import answers
from serve.answers import Paging, cursor_of
from serve.keys import Role
from serve.problems import ApiError, unknown_user
from serve.routes.common import UNCHANGED, DataStore, Reader, Since, Time, UserId, problems, to_ms
from serve.security import Caller, Require
from serve.store.statements import END_OF_TIME_MS, RawProfile
from serve.store.store import Store

BATCH_COST = 10.0
MAX_SIMILAR = 100

router = APIRouter(prefix="/v1", tags=["users"], responses=problems())


@router.post("/users:batchGet", response_model=models.ProfileBatch)
async def get_profiles(
    request: Request,
    body: models.BatchRequest,
    store: DataStore,
    caller: Annotated[Caller, Depends(Require(Role.READER, BATCH_COST))],
) -> Response:
    """The profiles of up to 100 users. Counts as 10 requests."""
    return await batch_response(request, store, body)


async def batch_response(request: Request, store: Store, body: models.BatchRequest) -> Response:
    """The answer to an admitted request for several profiles; serve/direct.py calls it too."""
    ids = list(dict.fromkeys(body.user_ids))
    rows = {row.user_id: row for row in await store.profiles(ids, body.embedding)}
    now_ms = request.app.state.clock_ms()
    found = [answers.profile_answer(rows[each], now_ms) for each in ids if each in rows]
    return answers.json_response(
        {
            "profiles": found,
            "unknown": [each for each in ids if each not in rows],
        }
    )


@router.get(
    "/users/{user_id}",
    response_model=models.Profile | models.PastProfile,
    responses=UNCHANGED | problems(404),
)
async def get_profile(
    request: Request,
    user_id: UserId,
    store: DataStore,
    caller: Reader,
    at: Annotated[
        Time | None,
        Query(description="What the profile said then, by event time. RFC 3339."),
    ] = None,
    embedding: bool = False,
) -> Response:
    """The profile as of the last closed window, or with `at`, of the last window before then.

    churn and expected_spend are those of the last full hour, or of `at`, if no event came since.
    """
    if at is not None:
        at_ms = to_ms(at)
        deltas = await store.deltas(user_id, at_ms, 1)
        if not deltas:
            raise ApiError(
                404, "unknown-past", "no delta of this user before this time: deltas expire"
            )
        return answers.tagged_response(request, answers.past_answer(deltas[0], at_ms))
    return await profile_response(request, store, user_id, embedding)


async def profile_response(
    request: Request, store: Store, user_id: str, embedding: bool = False
) -> Response:
    """The answer to an admitted request for a profile; serve/direct.py calls it too."""
    row = await _profile(store, user_id, embedding)
    answer = answers.profile_answer(row, request.app.state.clock_ms())
    return answers.tagged_response(request, answer)


@router.get("/users/{user_id}/deltas", response_model=Page[models.Delta])
async def get_deltas(user_id: UserId, store: DataStore, paging: Paging, caller: Reader) -> Response:
    """The changes of each window, newest first."""
    after = paging.position(int)
    until_ms = END_OF_TIME_MS if after is None else after[0] - 1
    rows = await store.deltas(user_id, until_ms, paging.limit)
    return answers.page_response(
        map(answers.delta_answer, rows), rows, paging.limit, lambda row: (row.window_end_ms,)
    )


@router.get("/users/{user_id}/scores", response_model=Page[models.Score])
async def get_scores(user_id: UserId, store: DataStore, paging: Paging, caller: Reader) -> Response:
    """The scores of single events, newest first."""
    page = await store.scores(user_id, paging.position(int, str), paging.limit)
    cursor = None if page.position is None else cursor_of(page.position)
    return answers.json_response({"items": page.rows, "next_cursor": cursor})


@router.get("/users/{user_id}/flags", response_model=Page[models.RiskFlag])
async def get_flags(
    user_id: UserId, store: DataStore, paging: Paging, caller: Reader, since: Since = None
) -> Response:
    """The risk flags, newest first."""
    after = paging.position(int, str, str)
    since_ms = 0 if since is None else to_ms(since)
    rows = await store.flags(user_id, since_ms, after, paging.limit)
    return answers.page_response(
        rows,
        rows,
        paging.limit,
        lambda row: (row.window_end_ms, row.rule_id, row.event_id),
    )


@router.get("/users/{user_id}/next-items", response_model=models.NextItems, responses=problems(404))
async def get_next_items(
    user_id: UserId,
    store: DataStore,
    caller: Reader,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 20,
) -> Response:
    """The items that the model expects next, most probable first."""
    row = await _profile(store, user_id)
    items = orjson.loads(row.profile).get("next_items") or []
    return answers.json_response(_head(row) | {"next_items": items[:limit]})


@router.get("/users/{user_id}/interests", response_model=models.Interests, responses=problems(404))
async def get_interests(user_id: UserId, store: DataStore, caller: Reader) -> Response:
    """The categories that the model expects next, and the long-term shares."""
    row = await _profile(store, user_id)
    profile = orjson.loads(row.profile)
    names = ("interests", "category_affinity")
    return answers.json_response(_head(row) | {name: profile.get(name) or {} for name in names})


@router.get("/users/{user_id}/similar", response_model=models.Lookalikes, responses=problems(404))
async def get_similar(
    user_id: UserId,
    store: DataStore,
    caller: Reader,
    k: Annotated[int, Query(ge=1, le=MAX_SIMILAR)] = 10,
    segment: Annotated[str | None, Query(min_length=1, max_length=64)] = None,
) -> Response:
    """The users with the most similar embeddings, best first."""
    users = await store.read(similar_users, user_id, k, segment)
    if users is None:
        raise unknown_user()
    return answers.json_response({"user_id": user_id, "similar": users})


@router.get("/users/{user_id}/attributes", response_model=Items[models.Attribute])
async def get_attributes(
    request: Request, user_id: UserId, store: DataStore, caller: Reader
) -> Response:
    """What other systems state about the user now, with source, purpose and expiry."""
    found = resolve(await store.attributes(user_id), request.app.state.clock_ms())
    items = [{"name": name} | attribute._asdict() for name, attribute in found.items()]
    return answers.json_response({"items": items})


async def _profile(store: Store, user_id: str, embedding: bool = False) -> RawProfile:
    rows = await store.profiles([user_id], embedding)
    if not rows:
        raise unknown_user()
    return rows[0]


def _head(row: RawProfile) -> dict[str, Any]:
    return {
        "user_id": row.user_id,
        "window_end_ms": row.window_end_ms,
        "model_version": row.model_version,
    }
