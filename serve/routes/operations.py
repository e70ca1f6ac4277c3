"""Health and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from liveprofile.client.models import (
    Health,
)
from serve import answers
from serve.routes.common import DataStore, Reader, problems

router = APIRouter(tags=["operations"])


@router.get("/health/live", response_model=Health)
async def live() -> Response:
    """The process answers."""
    return answers.json_response({"status": "ok"})


@router.get("/health/ready", response_model=Health, responses=problems())
async def ready(store: DataStore) -> Response:
    """Cassandra answers too; else 503."""
    await store.check()
    return answers.json_response({"status": "ok"})


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Metrics"},
        **problems(),
    },
)
async def metrics(request: Request, caller: Reader) -> Response:
    """Prometheus metrics of this process."""
    registry = request.app.state.metrics.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
