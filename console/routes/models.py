"""The models that the settings name."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from console.access import Reader
from console.rendering import page
from console.views.models import read_model

router = APIRouter()


@router.get("/models")
async def models(request: Request, caller: Reader) -> Response:
    folders = request.app.state.models
    reads = (asyncio.to_thread(read_model, name, folder) for name, folder in folders.items())
    return page(request, "models.html", models=await asyncio.gather(*reads))
