"""``/v1/models``: what policies there are, as OpenAI's clients ask for it."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter

from service.routes.context import InContext

router = APIRouter(tags=["chat"])
_STARTED = int(time.time())
ALIASES = ("plain", "lookahead")


@router.get("/v1/models")
async def models(context: InContext) -> dict[str, Any]:
    """The policies, each by its name and by its aliases ``NAME:plain`` and ``NAME:lookahead``."""
    names = [
        full
        for name in context.parts.policies
        for full in (name, *(f"{name}:{alias}" for alias in ALIASES))
    ]
    return {
        "object": "list",
        "data": [
            {"id": name, "object": "model", "created": _STARTED, "owned_by": "pilotfish"}
            for name in names
        ],
    }
