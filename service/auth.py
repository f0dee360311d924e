"""Bearer keys. Knows nothing of what they open."""

from __future__ import annotations

import hmac

from fastapi import Request

from service.errors import ApiError


async def require_key(request: Request) -> None:
    """A FastAPI dependency: where keys are set up, a call without one of them is answered 401."""
    keys = request.app.state.settings.keys
    if not keys:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    known = [hmac.compare_digest(given.encode(), key.get_secret_value().encode()) for key in keys]
    if scheme.lower() != "bearer" or not any(known):
        raise ApiError(
            401,
            "send a known key as 'Authorization: Bearer KEY'",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
