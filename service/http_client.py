"""The HTTP client of all that the service asks but models (``service/transport.py``): httpx's, with
one gap closed."""

from __future__ import annotations

from typing import Any

import httpx


class Client(httpx.AsyncClient):
    """Whatever keeps a connection from being made is an ``httpx.ConnectError``."""

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        try:
            return await super().send(request, **options)
        except AttributeError as error:
            # anyio on uvloop, of a connection that the other side closed as it was made
            raise httpx.ConnectError(f"closed at once ({error})", request=request) from error
