"""One connection to Redis that many share: commands go out as they are asked, answers come back in
that order. For the writes of journals, most of what a worker asks of Redis: taking a connection out
of a pool for each costs a worker more than all that Redis does for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, NamedTuple

from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError, RedisError, ResponseError

SILENT = 10.0
"""Seconds without an answer after which the connection is taken for dead: no command is added to
it, and what waits has failed."""


class _Asked(NamedTuple):
    answer: asyncio.Future[Any]
    at: float
    """Monotonic time."""


class Line:
    """Calling it sends a command. Who is cancelled leaves its answer to nobody; the command may
    have been carried out. Raises: ``RedisError``."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool: Any = pool  # of its own: that one connection is not taken back
        self._open: tuple[Any, asyncio.Task[None]] | None = None
        """The connection, and who reads it."""
        self._asked: deque[_Asked] = deque()
        self._opening = asyncio.Lock()

    async def __call__(self, *command: str | bytes | float) -> Any:
        if self._asked and time.monotonic() - self._asked[0].at > SILENT:
            await self.close()
        while self._open is None:
            async with self._opening:
                if self._open is None:
                    self._open = await self._connected()
        connection = self._open[0]
        asked = _Asked(asyncio.get_running_loop().create_future(), time.monotonic())
        self._asked.append(asked)
        # Nothing is awaited between here and the socket: so the answers come in our order.
        sending = connection.send_packed_command(
            connection.pack_command(*command), check_health=False
        )
        try:
            await sending
        except Exception:  # uvloop's is a RuntimeError
            await self.close()  # which fails our own future too
        return await asked.answer

    async def close(self) -> None:
        """Fail what waits. The next command connects anew."""
        if self._open is None:
            return
        (connection, reader), self._open = self._open, None
        waiting, self._asked = self._asked, deque()
        for asked in waiting:
            if not asked.answer.done():
                asked.answer.set_exception(ConnectionError("the connection to Redis was lost"))
        if reader is not asyncio.current_task():
            reader.cancel()
        await connection.disconnect(nowait=True)

    async def _connected(self) -> tuple[Any, asyncio.Task[None]]:
        connection: Any = self._pool.make_connection()
        try:
            await connection.connect()
        except BaseException:  # it may be half made
            await connection.disconnect(nowait=True)
            raise
        return connection, asyncio.create_task(self._read(connection), name="reads Redis")

    async def _read(self, connection: Any) -> None:
        while True:
            error: RedisError | None = None
            answer = None
            try:
                answer = await connection.read_response(disconnect_on_error=False)
            except ResponseError as refused:
                error = refused
            except Exception:  # whatever it is, nobody reads answers any more
                return await self.close()
            asked = self._asked.popleft().answer
            if asked.done():
                continue  # nobody waits for it any more
            if error is not None:
                asked.set_exception(error)
            else:
                asked.set_result(answer)
