"""One connection that many share: whose answer is whose, whatever happens to who asked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import RedisError, ResponseError

from service import redis_line
from service.redis_connection import pool
from service.redis_line import Line


@asynccontextmanager
async def lined(url: str) -> AsyncIterator[Line]:
    line = Line(pool(url, 1))
    try:
        yield line
    finally:
        await line.close()


@given(cancelled=st.lists(st.booleans(), min_size=1, max_size=40))
async def test_each_gets_its_own_answer_whoever_is_cancelled(
    redis_url: str, cancelled: list[bool]
) -> None:
    async with lined(redis_url) as line:
        asking = [asyncio.ensure_future(line("ECHO", f"{i}")) for i in range(len(cancelled))]
        await asyncio.sleep(0)
        for task, goes in zip(asking, cancelled, strict=True):
            if goes:
                task.cancel()
        answers = await asyncio.gather(*asking, return_exceptions=True)
    for i, (answer, goes) in enumerate(zip(answers, cancelled, strict=True)):
        assert isinstance(answer, asyncio.CancelledError) if goes else answer == f"{i}".encode()


async def test_a_refusal_is_told_to_whom_it_is_for(redis_url: str) -> None:
    async with lined(redis_url) as line:
        bad, good = await asyncio.gather(
            line("NO-SUCH-COMMAND"), line("ECHO", "here"), return_exceptions=True
        )
    assert isinstance(bad, ResponseError)
    assert good == b"here"


async def test_a_connection_that_ends_fails_all_that_wait_and_is_made_anew(redis_url: str) -> None:
    async with lined(redis_url) as line:
        me = await line("CLIENT", "ID")
        waiting = [asyncio.ensure_future(line("BLPOP", "nothing-there", 0)) for _ in range(3)]
        async with lined(redis_url) as other:
            while await other("CLIENT", "KILL", "ID", me) == 0:
                pass
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(answer, RedisError) for answer in answers)
        assert await line("ECHO", "again") == b"again"


async def test_a_redis_that_is_not_there_is_said(free_tcp_port: int) -> None:
    async with lined(f"redis://127.0.0.1:{free_tcp_port}/0") as line:
        with pytest.raises(RedisError):
            await line("PING")


async def test_a_connection_that_falls_silent_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes commands and answers none, then one that answers."""
    monkeypatch.setattr(redis_line, "SILENT", 0.2)
    silent = True
    connections = 0

    handlers: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        handlers.add(asyncio.current_task())
        connections += 1
        answers = not silent
        while data := await reader.read(1000):
            writer.write(b"+OK\r\n" * data.count(b"SETINFO"))  # of the handshake
            if answers and b"PING" in data:
                writer.write(b"+PONG\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, family=socket.AF_INET)
    port = server.sockets[0].getsockname()[1]
    url = f"redis://127.0.0.1:{port}/0?protocol=2"
    async with server, lined(url) as line:
        first = asyncio.ensure_future(line("PING"))
        done, _ = await asyncio.wait({first}, timeout=0.4)
        assert not done
        silent = False
        assert await line("PING") == b"PONG"
        assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], RedisError)
    await asyncio.gather(*(handler for handler in handlers if handler is not None))
    assert connections == 2
