"""What a caller is told when something is wrong: in OpenAI's error shape, or in Anthropic's on its
routes. The status is chosen where the error is born; this is the one place that turns exceptions
into answers."""

from __future__ import annotations

import re
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic_core import PydanticSerializationError
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from pilotfish.errors import first_wrong
from search.errors import (
    ContextTooLong,
    CriticError,
    CriticRefused,
    CriticTooLong,
    PolicyError,
    PolicyRefused,
    SandboxError,
)
from service.redis_connection import StateError

log = structlog.get_logger()


class ApiError(Exception):
    """An answer that is not a success. ``message`` says what to do."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": _type_of(self.status),
                "param": self.param,
                "code": self.code,
            }
        }

    @property
    def anthropic_body(self) -> dict[str, Any]:
        kind = _ANTHROPIC_TYPES.get(self.status, "invalid_request_error")
        kind = "api_error" if self.status >= 500 else kind
        return {"type": "error", "error": {"type": kind, "message": self.message}}

    def body_for(self, path: str) -> dict[str, Any]:
        """In the shape, and by the names, that callers of this path know."""
        path = _SESSION.sub("", path)
        if path.startswith("/v1/messages"):
            return self.anthropic_body
        body = self.body
        if path.startswith("/v1/responses") and self.code == "context_length_exceeded":
            body["error"]["param"] = "input"
        return body


_SESSION = re.compile("^/sessions/[^/]+")
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}


def _type_of(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 404:
        return "not_found_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def api_error(error: Exception) -> ApiError:
    """What a caller is told of an error of search's."""
    match error:
        case ApiError():
            return error
        case ContextTooLong():
            return ApiError(400, str(error), code="context_length_exceeded", param="messages")
        case PolicyRefused() if error.status < 500 and error.status not in (401, 403):
            return ApiError(error.status, f"policy: {error}", code="policy_refused")
        case PolicyError():
            return ApiError(502, f"policy: {error}", code="policy_error")
        case CriticTooLong():
            return ApiError(400, f"critic: {error}", code="context_length_exceeded")
        case CriticRefused():
            return ApiError(400, f"critic: {error}", code="critic_refused")
        case CriticError():
            return ApiError(502, f"critic: {error}", code="critic_error")
        case SandboxError():
            return ApiError(502, f"sandbox: {error}", code="sandbox_error")
        case StateError():
            return ApiError(503, str(error), code="state_error", headers={"Retry-After": "1"})
    return ApiError(500, "internal error; the log has more", code="internal_error")


def told(error: Exception, **where: str) -> ApiError:
    """What a caller is told; what nobody expected is logged, with ``where`` it was."""
    answer = api_error(error)
    if answer.status == 500:
        log.error("unhandled error", exc_info=error, **where)
    return answer


def _without_place(error: dict[str, Any]) -> dict[str, Any]:
    """Callers know their fields, not what FastAPI calls where they are."""
    first, *rest = error["loc"] or [""]
    return error | {"loc": rest if first in ("body", "query", "path", "header") else error["loc"]}


def _methods_at(request: Request) -> set[str]:
    """All methods that this path has, whichever route has them."""
    found: set[str] = set()
    for template, operations in request.app.openapi()["paths"].items():
        if compile_path(template)[0].match(request.url.path):
            found |= {method.upper() for method in operations}
    return found


def install(app: FastAPI) -> None:
    """Answer every exception of ``app`` in this shape."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        known = told(error, path=request.url.path)
        return JSONResponse(known.body_for(request.url.path), known.status, known.headers)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        found = error.errors()
        if found[0]["type"] == "json_invalid":
            reason = found[0].get("ctx", {}).get("error", found[0]["msg"])
            return await answer(request, ApiError(400, f"the body is not JSON: {reason}"))
        where, message = first_wrong([_without_place(one) for one in found])
        known = ApiError(400, message, param=where or None, code="invalid_value")
        return await answer(request, known)

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        message = str(error.detail)
        if error.status_code == 404 and message == "Not Found":
            message = f"there is no route {request.method} {request.url.path}; see /docs"
        headers = dict(error.headers or {})
        if error.status_code == 405:  # else Allow names only those of the first route
            headers["Allow"] = ", ".join(sorted(_methods_at(request)))
        return await answer(request, ApiError(error.status_code, message, headers=headers))

    async def half(request: Request, error: Exception) -> JSONResponse:
        if "surrogate" not in str(error):
            return await answer(request, error)
        message = "the body has half of a surrogate pair (as \\ud800), which is no text"
        return await answer(request, ApiError(400, message, code="invalid_value"))

    for unsaid in (UnicodeEncodeError, PydanticSerializationError):
        app.add_exception_handler(unsaid, half)
    for kind in (ApiError, PolicyError, CriticError, SandboxError, StateError, Exception):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
