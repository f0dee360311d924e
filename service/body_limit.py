"""The largest body of a request. Not FastAPI's own ``max_body_size``, which answers in plain text
whatever the handlers of errors say."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ApiError


class BodyLimit:
    """Middleware: a larger body is answered 413, as soon as that is known."""

    def __init__(self, app: ASGIApp, megabytes: float) -> None:
        self.app, self._limit = app, int(megabytes * 2**20)
        self._told = f"a request's body has at most {megabytes:g} MB"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._limit:
            body = ApiError(413, self._told).body_for(scope["path"])
            await JSONResponse(body, 413)(scope, receive, send)
            return
        got = 0

        async def counted() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > self._limit:
                raise HTTPException(413, self._told)
            return message

        await self.app(scope, counted, send)
