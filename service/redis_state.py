"""All that Redis holds of ours: the only file that knows its keys. Knows nothing of what runs.

| key | type | holds |
|---|---|---|
| ``pilotfish:run:{id}`` | hash | request, status, times, result |
| ``pilotfish:journal:{id}`` | stream | its journal, an entry a message, compressed over 1 kB |
| ``pilotfish:runs`` | sorted set | ids of runs by time of creation |

Every key has a lifetime, renewed when it is written; nothing is scanned. Delivery of runs to
workers is docket's, under keys of its own.
"""

from __future__ import annotations

import json
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import stamina
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

from search.errors import JournalError

T = TypeVar("T")

PREFIX = "pilotfish:"
RUNS = f"{PREFIX}runs"
_COMPRESS_OVER = 1024
_BLOCK_MS = 4000  # redis-py gives up on a socket that is silent for 5 s

# KEYS: journal, run. ARGV: entry, lifetime in seconds. Returns the entry's id, or nil where the run
# is gone: a journal of a run that expired must not come back without a lifetime.
_APPEND = """
if redis.call('EXISTS', KEYS[2]) == 0 then return nil end
local id = redis.call('XADD', KEYS[1], '*', 'e', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return id
"""

# KEYS: journal, run. ARGV: entry, lifetime in seconds, status, time, result. Returns 1, or 0 where
# the run had ended: then nothing is changed.
_FINISH = """
local now = redis.call('HGET', KEYS[2], 'status')
if not now or now == 'succeeded' or now == 'failed' or now == 'cancelled' then return 0 end
redis.call('HSET', KEYS[2], 'status', ARGV[3], 'ended_at', ARGV[4], 'result', ARGV[5])
redis.call('XADD', KEYS[1], '*', 'e', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
"""

# KEYS: run. ARGV: new status, then the statuses that it may follow. Returns 1 if it was changed.
_MOVE = """
local now = redis.call('HGET', KEYS[1], 'status')
for i = 2, #ARGV do
  if now == ARGV[i] then redis.call('HSET', KEYS[1], 'status', ARGV[1]) return 1 end
end
return 0
"""


class StateError(JournalError):
    """Redis did not do what was asked of it."""


class RunGone(StateError):
    """There is no such run (any more)."""


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise StateError(f"Redis: {error}") from error


class RedisState:
    """The state of all runs. Raises ``StateError`` where Redis fails."""

    def __init__(self, url: str, *, lifetime: float) -> None:
        pool = BlockingConnectionPool.from_url(url, max_connections=64, timeout=20)
        # redis-py's types do not know what it answers when it does not decode
        self.redis: Any = Redis(connection_pool=pool)
        self._readers: Any = Redis(
            connection_pool=BlockingConnectionPool.from_url(url, max_connections=1024, timeout=20)
        )
        self._lifetime = int(lifetime)
        self._append = self.redis.register_script(_APPEND)
        self._finish = self.redis.register_script(_FINISH)
        self._move = self.redis.register_script(_MOVE)

    async def close(self) -> None:
        await self.redis.aclose(close_connection_pool=True)
        await self._readers.aclose(close_connection_pool=True)

    async def ping(self) -> bool:
        try:
            return bool(await self.redis.ping())
        except RedisError:
            return False

    async def create(self, run_id: str, request: str, meta: dict[str, str]) -> None:
        """A new run: ``request`` is its JSON, ``meta`` what lists show."""
        now = time.time()
        fields = {
            "request": _pack(request),
            "status": "queued",
            "created_at": str(now),
            "meta": json.dumps(meta),
        }
        with _answering():
            await self._create(run_id, fields, now)

    async def _create(self, run_id: str, fields: dict[str, Any], now: float) -> None:
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.hset(_run(run_id), mapping=fields)
            pipe.expire(_run(run_id), self._lifetime)
            pipe.zadd(RUNS, {run_id: now})
            pipe.zremrangebyscore(RUNS, "-inf", now - self._lifetime)
            pipe.expire(RUNS, self._lifetime)
            await pipe.execute()

    async def request(self, run_id: str) -> str:
        """The JSON that the run was made from. Raises: ``RunGone``."""
        with _answering():
            packed = await self.redis.hget(_run(run_id), "request")
        if packed is None:
            raise RunGone(f"there is no run {run_id!r}")
        return _unpack(packed)

    async def summary(self, run_id: str) -> dict[str, Any]:
        """Status, times and, when it has ended, the result. Raises: ``RunGone``."""
        [summary] = await self._summaries([run_id])
        if summary is None:
            raise RunGone(f"there is no run {run_id!r}")
        return summary

    async def page(self, *, limit: int, after: str | None) -> list[dict[str, Any]]:
        """Summaries, newest first, behind the run ``after``."""
        with _answering():
            start = 0
            if after is not None:
                rank = await self.redis.zrevrank(RUNS, after)
                if rank is None:
                    raise RunGone(f"there is no run {after!r} to list behind")
                start = int(rank) + 1
            ids = await self.redis.zrevrange(RUNS, start, start + limit - 1)
        summaries = await self._summaries([run_id.decode() for run_id in ids])
        return [summary for summary in summaries if summary is not None]

    async def _summaries(self, ids: list[str]) -> list[dict[str, Any] | None]:
        names = ["request", "status", "created_at", "ended_at", "meta", "result"]
        with _answering():
            async with self.redis.pipeline(transaction=False) as pipe:
                for run_id in ids:
                    pipe.hmget(_run(run_id), names)
                rows = await pipe.execute()
        return [_summary(i, row) for i, row in zip(ids, rows, strict=True)]

    async def move(self, run_id: str, status: str, *, after: tuple[str, ...]) -> bool:
        """Set the status if it is one of ``after``; whether it was."""
        with _answering():
            return bool(await self._move(keys=[_run(run_id)], args=[status, *after]))

    async def finish(self, run_id: str, status: str, result: dict[str, Any]) -> bool:
        """The run has ended, for good, and its journal says so; whether it had not ended before."""
        now = time.time()
        last = {"kind": "run_ended", "at": now, "status": status, **result}
        entry, outcome = _pack(json.dumps(last)), _pack(json.dumps(result))
        with _answering():
            ended = await self._finish(
                keys=[_journal(run_id), _run(run_id)],
                args=[entry, self._lifetime, status, now, outcome],
            )
        return bool(ended)

    def journal(self, run_id: str) -> RedisJournal:
        return RedisJournal(self, run_id)

    async def append(self, run_id: str, entry: dict[str, Any]) -> str:
        """Raises: ``RunGone``; ``StateError``."""
        with _answering():
            added = await self._append(
                keys=[_journal(run_id), _run(run_id)],
                args=[_pack(json.dumps(entry)), self._lifetime],
            )
        if added is None:
            raise RunGone(f"there is no run {run_id!r}")
        return str(added.decode())

    async def has(self, run_id: str, token: str) -> bool:
        """Whether one of the newest entries has this ``token``: an append whose answer was lost may
        have been made."""
        with _answering():
            rows = await self.redis.xrevrange(_journal(run_id), count=1000)
        return any(_entry(row).get("token") == token for row in rows)

    async def entries(self, run_id: str, *, after: str = "-") -> list[dict[str, Any]]:
        """The journal, oldest first, each entry with its ``id``."""
        start = "-" if after == "-" else f"({after}"
        with _answering():
            rows = await self.redis.xrange(_journal(run_id), min=start)
        return [_entry(row) for row in rows or []]

    async def follow(
        self, run_id: str, *, after: str = "0"
    ) -> AsyncIterator[dict[str, Any] | None]:
        """Entries behind ``after`` as they come; ``None`` now and then where none does. It does
        not end: the caller knows when the run has."""
        last = after
        while True:
            with _answering():
                journals = {_journal(run_id): last}
                found = await self._readers.xread(journals, block=_BLOCK_MS, count=100)
            if not found:
                yield None
            for _, rows in found or []:
                for row in rows:
                    last = row[0].decode()
                    yield _entry(row)


class RedisJournal:
    """The journal of one run, as search wants it. It outlasts a Redis that is away for a moment:
    nothing is lost, and nothing appended twice where only the answer was lost."""

    def __init__(self, state: RedisState, run_id: str) -> None:
        self._state, self._run_id = state, run_id

    async def append(self, kind: str, **data: Any) -> None:
        entry = {"kind": kind, "at": time.time(), "token": uuid.uuid4().hex[:12], **data}
        tried = False

        async def once() -> None:
            nonlocal tried
            if tried and await self._state.has(self._run_id, entry["token"]):
                return
            tried = True
            await self._state.append(self._run_id, entry)

        await patiently(once)

    async def entries(self) -> list[dict[str, Any]]:
        return await patiently(lambda: self._state.entries(self._run_id))


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """What ``call`` gives, tried again for a minute where Redis is away. For what all the work of a
    run stands behind; whoever answers a request says so at once instead."""
    async for attempt in stamina.retry_context(on=_away, attempts=12, timeout=60.0):
        with attempt:
            return await call()
    raise AssertionError("unreachable")


def _away(error: Exception) -> bool:
    return isinstance(error, StateError) and not isinstance(error, RunGone)


def _run(run_id: str) -> str:
    return f"{PREFIX}run:{run_id}"


def _journal(run_id: str) -> str:
    return f"{PREFIX}journal:{run_id}"


def _pack(text: str) -> bytes:
    raw = text.encode()
    return b"z" + zlib.compress(raw, 1) if len(raw) > _COMPRESS_OVER else b"t" + raw


def _unpack(packed: bytes) -> str:
    return (zlib.decompress(packed[1:]) if packed[:1] == b"z" else packed[1:]).decode()


def _entry(row: tuple[bytes, dict[bytes, bytes]]) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(_unpack(row[1][b"e"]))
    return {"id": row[0].decode(), **entry}


def _summary(run_id: str, row: list[bytes | None]) -> dict[str, Any] | None:
    request, status, created, ended, meta, result = row
    if request is None or status is None or created is None:
        return None
    return {
        "id": run_id,
        "request": json.loads(_unpack(request)),
        "status": status.decode(),
        "created_at": float(created),
        "ended_at": float(ended) if ended else None,
        "meta": json.loads(meta or b"{}"),
        "result": json.loads(_unpack(result)) if result else None,
    }
