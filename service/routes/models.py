"""``/v1/models``: what policies there are, as OpenAI's clients ask for it."""

from __future__ import annotations

import time

from fastapi import APIRouter

from service import openapi
from service.routes.context import InContext
from service.wire.schemas import Model, ModelList

router = APIRouter(tags=["chat"], responses=openapi.errors(401, 500))
_STARTED = int(time.time())
ALIASES = ("plain", "lookahead")


@router.get("/v1/models")
async def models(context: InContext) -> ModelList:
    """The policies, each by its name and by its aliases ``NAME:plain`` and ``NAME:lookahead``."""
    names = [
        full
        for name in context.parts.policies
        for full in (name, *(f"{name}:{alias}" for alias in ALIASES))
    ]
    return ModelList(
        data=[Model(id=name, created=_STARTED, owned_by="pilotfish") for name in names]
    )
