"""``/health``, ``/health/readiness``, ``/metrics``, ``/v1/models``."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.auth import require_key
from service.routes.context import InContext

router = APIRouter(tags=["operations"])


@router.get("/health")
async def health() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/health/readiness")
async def readiness(context: InContext) -> JSONResponse:
    """Whether the process can do its work: 503 and what is missing if not."""
    missing = []
    if not await context.state.ping():
        missing.append("redis does not answer")
    if not context.parts.policies:
        missing.append("no policy is set up")
    if context.worker is not None and not context.worker.alive:
        missing.append("the worker has stopped")
    status = {"status": "not ready" if missing else "ready", "missing": missing}
    return JSONResponse(status, 503 if missing else 200)


@router.get("/metrics", dependencies=[Depends(require_key)])
async def metrics() -> Response:
    """Prometheus metrics."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
