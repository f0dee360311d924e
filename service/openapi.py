"""The OpenAPI document: what FastAPI finds in the routes, and what it cannot know. Nothing is
checked or parsed by it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from pilotfish.api import ErrorAnswer, Event
from service.wire.chat import CallOptions
from service.wire.schemas import (
    AnthropicError,
    ChatRequest,
    MessagesRequest,
    ResponseRequest,
    TokensRequest,
)

Responses = dict[int | str, dict[str, Any]]

_RETRY_AFTER = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}}
}
_MEANINGS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request is wrong; `param` names the field."},
    401: {
        "description": "No known key.",
        "headers": {"WWW-Authenticate": {"schema": {"type": "string"}}},
    },
    404: {"description": "There is none of that name or id."},
    409: {"description": "What it is about is not so that this can be done."},
    413: {"description": "The body is over the service's limit."},
    429: {"description": "Too much is under way.", "headers": _RETRY_AFTER},
    500: {"description": "Nobody expected this; the service's log has more."},
    502: {"description": "The policy, the critic or a sandbox failed."},
    503: {
        "description": "Something that is needed is away, or not set up.",
        "headers": _RETRY_AFTER,
    },
    "4XX": {"description": "The policy refused the request, with this status."},
}
BODY = (400, 413)
"""Statuses of routes with a body."""
ASKING = (400, 404, 429, 502, 503)
"""Statuses of routes that ask a policy or a critic."""


def errors(*statuses: int | str, kind: type[BaseModel] = ErrorAnswer) -> Responses:
    """What a route says of its errors."""
    return {status: _MEANINGS[status] | {"content": _json(kind)} for status in statuses}


def events(data: type[BaseModel] | None = None) -> dict[str, Any]:
    """The content of a stream of events, whose data are JSON: of that kind, or of several."""
    told: dict[str, Any] = {"type": "string", "contentMediaType": "application/json"}
    if data is not None:
        told["contentSchema"] = _reference(data)
    properties = {"id": {"type": "string"}, "event": {"type": "string"}, "data": told}
    return {"text/event-stream": {"schema": {"type": "object", "properties": properties}}}


def streamed(kind: type[BaseModel]) -> Responses:
    """What a route says of an answer that is of ``kind``, or its events where the body has
    ``stream``."""
    return {200: {"model": kind, "content": events()}}


def body(kind: type[BaseModel]) -> dict[str, Any]:
    """What a route says of a body that it reads itself."""
    return {"requestBody": {"required": True, "content": _json(kind)}}


def guided(kind: type[BaseModel]) -> dict[str, Any]:
    """The same of a call that may say by headers how it is guided."""
    names = {f"x-pilotfish-{name.replace('_', '-')}": name for name in CallOptions.model_fields}
    properties = CallOptions.model_json_schema()["properties"]
    headers = [
        {"name": header, "in": "header", "schema": properties[name]}
        for header, name in {**names, "x-session-id": "session"}.items()
    ]
    return body(kind) | {"parameters": headers}


def _json(kind: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": _reference(kind)}}


def _reference(kind: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=kind.__name__)}


_REFERENCE = "#/components/schemas/{model}"
_NOT_FOUND_BY_FASTAPI = (
    AnthropicError,
    ChatRequest,
    ErrorAnswer,
    Event,
    MessagesRequest,
    ResponseRequest,
    TokensRequest,
)


def install(app: FastAPI) -> None:
    """Let ``app`` answer this document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = made["components"]["schemas"]
    _, bodies = models_json_schema(
        [(kind, "validation") for kind in _NOT_FOUND_BY_FASTAPI], ref_template=_REFERENCE
    )
    schemas |= {name: schemas.get(name, schema) for name, schema in bodies["$defs"].items()}
    for operations in made["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # FastAPI's own; ours are 400
            for parameter in operation.get("parameters", []):
                parameter["schema"] = _not_null(parameter["schema"])
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    made["components"]["schemas"] = dict(sorted(schemas.items()))
    return made


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter is there or not, and never null."""
    others = [one for one in schema.get("anyOf", []) if one.get("type") != "null"]
    kept = {name: schema[name] for name in schema if name not in ("anyOf", "title")}
    if kept.get("default", "") is None:
        del kept["default"]
    return kept | (others[0] if len(others) == 1 else {})
