"""``/v1/models``: what policies there are, as OpenAI's clients ask for it, and Anthropic's, who say
so by their header ``anthropic-version``."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request

from service.errors import ApiError
from service.routes.context import Context, InContext

router = APIRouter(tags=["chat"])
_STARTED = int(time.time())
ALIASES = ("plain", "lookahead")


@router.get("/v1/models")
async def models(request: Request, context: InContext) -> dict[str, Any]:
    """The policies, each by its name and by its aliases ``NAME:plain`` and ``NAME:lookahead``."""
    shown = [_shown(name, request) for name in _names(context)]
    if not _anthropic(request):
        return {"object": "list", "data": shown}
    ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]}
    return {"data": shown, "has_more": False, **ends}


@router.get("/v1/models/{name:path}")
async def model(name: str, request: Request, context: InContext) -> dict[str, Any]:
    """One policy."""
    if name not in _names(context):
        raise ApiError(
            404,
            f"there is no model {name!r}: GET /v1/models says which there are",
            code="model_not_found",
            param="model",
        )
    return _shown(name, request)


def _names(context: Context) -> list[str]:
    return [
        full
        for name in context.parts.policies
        for full in (name, *(f"{name}:{alias}" for alias in ALIASES))
    ]


def _shown(name: str, request: Request) -> dict[str, Any]:
    if _anthropic(request):
        made = datetime.fromtimestamp(_STARTED, UTC).isoformat().replace("+00:00", "Z")
        return {"type": "model", "id": name, "display_name": name, "created_at": made}
    return {"id": name, "object": "model", "created": _STARTED, "owned_by": "pilotfish"}


def _anthropic(request: Request) -> bool:
    return "anthropic-version" in request.headers
