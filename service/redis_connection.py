"""Connections to Redis, and what all that is kept there has in common: one prefix, a time limit on
every answer, texts compressed. Knows no key."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError

from search.errors import JournalError

PREFIX = "pilotfish:"
ANSWER_SECONDS = 10.0
"""How long Redis may take to answer. Timed here: redis-py's own timeouts use asyncio.wait_for,
which on Python 3.11 can swallow a cancellation."""
_COMPRESS_OVER = 1024


class StateError(JournalError):
    """Redis did not do what was asked of it."""


@asynccontextmanager
async def answering(seconds: float = ANSWER_SECONDS) -> AsyncIterator[None]:
    """Raises: ``StateError`` for whatever Redis fails at within it."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise StateError(f"Redis does not answer in {seconds:g} s") from error
    except RedisError as error:
        raise StateError(f"Redis: {error}") from error


def pool(url: str, connections: int) -> BlockingConnectionPool:
    """Who wants one more than ``connections`` waits."""
    return BlockingConnectionPool.from_url(
        url, max_connections=connections, timeout=20, socket_timeout=None
    )


def pack(text: str) -> bytes:
    """A text as it is kept: over 1 kB, compressed."""
    raw = text.encode()
    return b"z" + zlib.compress(raw, 1) if len(raw) > _COMPRESS_OVER else b"t" + raw


def unpack(packed: bytes) -> str:
    return (zlib.decompress(packed[1:]) if packed[:1] == b"z" else packed[1:]).decode()


async def ids_behind(redis: Any, listed: str, after: str | None, limit: int) -> list[str] | None:
    """Members of a sorted set, the highest first, behind ``after``; ``None`` where that is none of
    them."""
    start = 0
    if after is not None:
        if (rank := await redis.zrevrank(listed, after)) is None:
            return None
        start = int(rank) + 1
    return [one.decode() for one in await redis.zrevrange(listed, start, start + limit - 1)]
