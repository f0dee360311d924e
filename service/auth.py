"""Keys. Knows nothing of what they open."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from service.errors import ApiError

_BEARER = HTTPBearer(auto_error=False)
_X_API_KEY = APIKeyHeader(name="x-api-key", auto_error=False)


async def require_key(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
    x_api_key: Annotated[str | None, Depends(_X_API_KEY)],
) -> None:
    """A FastAPI dependency: where keys are set up, a call without one of them is answered 401.
    OpenAI's clients send theirs as a bearer token, Anthropic's also as ``x-api-key``."""
    keys = request.app.state.settings.keys
    if not keys:
        return
    given = [x_api_key, bearer.credentials if bearer else None]
    known = [
        key
        for one in given
        if one
        for key in keys
        if hmac.compare_digest(one.encode(), key.key.get_secret_value().encode())
    ]
    if known:
        request.state.guide = known[0].guide
    else:
        raise ApiError(
            401,
            "send a known key as 'Authorization: Bearer KEY', or as 'x-api-key: KEY'",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
