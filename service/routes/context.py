"""What every handler shares: the process's parts, permits, and the caller's presence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from service.errors import ApiError
from service.metrics import UNDER_WAY
from service.parts import Parts
from service.redis_responses import RedisResponses
from service.redis_state import RedisState
from service.runs.worker import RunWorker
from service.sessions import Sessions
from service.settings import Settings

T = TypeVar("T")


@dataclass
class Context:
    """One process."""

    settings: Settings
    parts: Parts
    state: RedisState
    sessions: Sessions
    responses: RedisResponses
    worker: RunWorker | None = None
    under_way: int = field(default=0)

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Taken before any work. Raises: ``ApiError`` 429 at once when all are taken."""
        if self.under_way >= self.settings.concurrent_requests:
            raise ApiError(
                429,
                f"{self.under_way} requests are under way; try again",
                code="overloaded",
                headers={"Retry-After": "1"},
            )
        self.under_way += 1
        UNDER_WAY.inc()
        try:
            yield
        finally:
            self.under_way -= 1
            UNDER_WAY.dec()


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


InContext = Annotated[Context, Depends(_context)]


async def permitted(request: Request, context: InContext) -> AsyncIterator[None]:
    """A FastAPI dependency: a permit from when the body is there, which whoever never sends it does
    not hold, to the last byte of the answer, streams' too. Raises: as ``Context.permit``."""
    await request.body()
    with context.permit():
        yield


class ClientGone(Exception):
    """The caller has left; nobody reads the answer."""


async def while_present(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do ``work`` as long as the caller waits for it; then cancel it.

    Raises: ``ClientGone``. The request's body must have been read.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
