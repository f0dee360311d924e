"""Scorings that wait for a connection are sent together. Knows nothing of what is sent.

Few requests at a time, each of what has come up meanwhile, cost the caller and the server less than
many small ones, and none waits while there is a connection free.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from search.errors import CriticRefused

T = TypeVar("T")
Rows = list[list[int]]
MOST_ROWS = 256
"""Of one request, unless a single caller has more."""


@dataclass(eq=False)
class _Call(Generic[T]):
    rows: Rows
    values: asyncio.Future[list[T]]


class Together(Generic[T]):
    """``send`` gives one value a row. At most ``at_once`` of it are under way."""

    def __init__(self, send: Callable[[Rows], Awaitable[list[T]]], at_once: int) -> None:
        self._send, self._at_once = send, at_once
        self._waiting: deque[_Call[T]] = deque()
        self._senders: set[asyncio.Task[None]] = set()

    async def __call__(self, rows: Rows) -> list[T]:
        """The values of ``rows``. Whoever is cancelled leaves; a request that all have left is
        cancelled. Raises: what ``send`` raises."""
        call = _Call[T](rows, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if len(self._senders) < self._at_once:
            sender = asyncio.create_task(self._send_waiting())
            self._senders.add(sender)
        return await call.values

    async def close(self) -> None:
        """Cancel what is under way."""
        for call in self._waiting:
            call.values.cancel()
        for sender in self._senders:
            sender.cancel()
        await asyncio.gather(*self._senders, return_exceptions=True)

    async def _send_waiting(self) -> None:
        sender = asyncio.current_task()
        assert sender is not None
        try:
            while calls := self._next():
                await self._answer(calls)
        finally:  # at once: a call that comes now has to see that it needs one of its own
            self._senders.discard(sender)

    def _next(self) -> list[_Call[T]]:
        calls: list[_Call[T]] = []
        rows = 0
        while self._waiting and (not calls or rows + len(self._waiting[0].rows) <= MOST_ROWS):
            call = self._waiting.popleft()
            if not call.values.done():
                calls.append(call)
                rows += len(call.rows)
        return calls

    async def _answer(self, calls: list[_Call[T]]) -> None:
        sending = asyncio.ensure_future(self._send([row for call in calls for row in call.rows]))

        def left(_: object) -> None:
            if all(call.values.done() for call in calls):
                sending.cancel()

        for call in calls:
            call.values.add_done_callback(left)
        try:
            await asyncio.wait([sending])
        except asyncio.CancelledError:  # we are being closed
            for call in calls:
                call.values.cancel()
            raise
        if sending.cancelled():
            return
        error = sending.exception()
        if isinstance(error, CriticRefused) and len(calls) > 1:
            for call in calls:  # one of them, and the others are not to suffer for it
                await self._answer([call])
        elif error is not None:
            for call in calls:
                if not call.values.done():
                    call.values.set_exception(error)
        else:
            values = iter(sending.result())
            for call in calls:
                own = [next(values) for _ in call.rows]
                if not call.values.done():
                    call.values.set_result(own)
