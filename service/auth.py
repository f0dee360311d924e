"""Keys. Knows nothing of what they open."""

from __future__ import annotations

import hmac

from fastapi import Request

from service.errors import ApiError


async def require_key(request: Request) -> None:
    """A FastAPI dependency: where keys are set up, a call without one of them is answered 401.
    OpenAI's clients send theirs as a bearer token, Anthropic's also as ``x-api-key``."""
    keys = request.app.state.settings.keys
    if not keys:
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    given = [request.headers.get("x-api-key", ""), token if scheme.lower() == "bearer" else ""]
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
