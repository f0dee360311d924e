"""``/v1/models``: what policies there are, as OpenAI's clients ask for it, and Anthropic's, who say
so by their header ``anthropic-version``."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Header

from service import openapi
from service.errors import ApiError
from service.routes.context import Context, InContext
from service.wire.schemas import AnthropicModel, AnthropicModelList, Model, ModelList

router = APIRouter(tags=["chat"], responses=openapi.errors(401, 500))
_STARTED = int(time.time())
ALIASES = ("plain", "lookahead")
Version = Annotated[str | None, Header(alias="anthropic-version")]


@router.get("/v1/models")
async def models(context: InContext, version: Version = None) -> ModelList | AnthropicModelList:
    """The policies, each by its name and by its aliases ``NAME:plain`` and ``NAME:lookahead``."""
    names = _names(context)
    if version is None:
        return ModelList(data=[_openais(name) for name in names])
    return AnthropicModelList(
        data=[_anthropics(name) for name in names],
        first_id=names[0] if names else None,
        last_id=names[-1] if names else None,
    )


@router.get("/v1/models/{name:path}", responses=openapi.errors(404))
async def model(name: str, context: InContext, version: Version = None) -> Model | AnthropicModel:
    """One policy."""
    if name not in _names(context):
        raise ApiError(
            404,
            f"there is no model {name!r}: GET /v1/models says which there are",
            code="model_not_found",
            param="model",
        )
    return _openais(name) if version is None else _anthropics(name)


def _names(context: Context) -> list[str]:
    return [
        full
        for name in context.parts.policies
        for full in (name, *(f"{name}:{alias}" for alias in ALIASES))
    ]


def _openais(name: str) -> Model:
    return Model(id=name, created=_STARTED, owned_by="pilotfish")


def _anthropics(name: str) -> AnthropicModel:
    return AnthropicModel(
        id=name, display_name=name, created_at=datetime.fromtimestamp(_STARTED, UTC)
    )
