"""The models that the settings name, and the versions of the user model of running jobs."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import Response

from console.access import Reader
from console.job import JobReader
from console.rendering import page, part_page
from console.views.model_versions import folder_of, model_versions
from console.views.models import read_model
from serve.guard import extend_deadline

# A broker that is away takes seconds to tell.
TOPIC_DEADLINE_S = 10.0

router = APIRouter(prefix="/models")


@router.get("")
async def models(request: Request, caller: Reader) -> Response:
    return await _cards(request, "Models", request.app.state.models)


@router.get("/versions")
async def versions(request: Request, caller: Reader) -> Response:
    return page(request, "models/versions.html")


@router.get("/versions/list")
async def version_list(request: Request, caller: Reader) -> Response:
    extend_deadline(request, TOPIC_DEADLINE_S)
    reader: JobReader = request.app.state.job
    name, folder = _user_model(request)
    configured = await asyncio.to_thread(read_model, name, folder)
    found = model_versions(await reader.user_models(), configured.version)
    return part_page(
        request,
        "models/version_list.html",
        "Versions of the user model",
        back="/models",
        versions=found,
    )


@router.get("/versions/card")
async def version_card(
    request: Request, caller: Reader, revision: int | None = None, canary: bool = False
) -> Response:
    """The card of a deployment's model, without a revision that of the settings."""
    extend_deadline(request, TOPIC_DEADLINE_S)
    reader: JobReader = request.app.state.job
    name, configured = _user_model(request)
    folder = folder_of(await reader.user_models(), revision, canary, configured)
    if folder is None:
        raise HTTPException(404, f"the topic has no model of revision {revision}")
    return await _cards(request, "Model card", {name: folder})


def _user_model(request: Request) -> tuple[str, Path]:
    """Name and checkpoint of the user model of the settings, which comes first."""
    return next(iter(request.app.state.models.items()))


async def _cards(request: Request, title: str, folders: dict[str, Path]) -> Response:
    reads = (asyncio.to_thread(read_model, name, folder) for name, folder in folders.items())
    return page(request, "models/page.html", title=title, models=await asyncio.gather(*reads))
