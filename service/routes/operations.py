"""``/health``, ``/health/readiness``, ``/metrics``, ``/v1/models``."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Depends, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from service import openapi
from service.auth import require_key
from service.routes.context import InContext

router = APIRouter(tags=["operations"])


class Readiness(BaseModel):
    """Whether the process can do its work."""

    status: Literal["ready", "not ready"]
    missing: list[str]
    """What it lacks."""


@router.get("/health")
async def health() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/health/readiness", responses={503: {"model": Readiness}})
async def readiness(context: InContext, response: Response) -> Readiness:
    """Whether the process can do its work: 503 and what is missing if not."""
    missing = []
    if not await context.state.ping():
        missing.append("redis does not answer")
    if not context.parts.policies:
        missing.append("no policy is set up")
    if context.worker is not None and not context.worker.alive:
        missing.append("the worker has stopped")
    response.status_code = 503 if missing else 200
    return Readiness(status="not ready" if missing else "ready", missing=missing)


@router.get(
    "/metrics",
    dependencies=[Depends(require_key)],
    response_class=PlainTextResponse,
    responses=openapi.errors(401),
)
async def metrics() -> Response:
    """Prometheus metrics."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
