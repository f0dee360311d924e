"""Streams of events: their pauses, and freeing what is behind them. Knows no format."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
_STATUS_WITHIN = 1.0
"""Seconds for which a stream is not begun: what fails sooner is answered with a status."""


class Paused(Generic[T]):
    """What ``source`` gives, and ``None`` where it gives nothing for ``every`` seconds. It works
    from the start, read or not, until it is closed."""

    def __init__(self, source: AsyncGenerator[T, None], every: float) -> None:
        self._source, self._every = source, every
        self._coming: asyncio.Task[T | None] = asyncio.create_task(_next(source))

    async def begin(self) -> None:
        """Wait a moment for the first. Raises what ``source`` raised by then; all is freed."""
        try:
            await asyncio.wait({self._coming}, timeout=min(self._every, _STATUS_WITHIN))
            if self._coming.done():
                self._coming.result()
        except BaseException:
            await self.close()
            raise

    async def __aiter__(self) -> AsyncIterator[T | None]:
        if not self._coming.done():
            yield None
        while True:
            await asyncio.wait({self._coming}, timeout=self._every)
            if not self._coming.done():
                yield None
                continue
            if (given := self._coming.result()) is None:
                return
            self._coming = asyncio.create_task(_next(self._source))
            yield given

    async def close(self) -> None:
        self._coming.cancel()
        await asyncio.gather(self._coming, return_exceptions=True)
        await self._source.aclose()


class Closing(StreamingResponse):
    """A stream that frees what it holds, also when its caller left before it began."""

    def __init__(
        self, content: AsyncIterator[Any], close: Callable[[], Awaitable[None]], **options: Any
    ) -> None:
        super().__init__(content, media_type="text/event-stream", **options)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.shield(self._close())


async def _next(source: AsyncGenerator[T, None]) -> T | None:
    return await anext(source, None)
