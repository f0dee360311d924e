"""All that Redis holds of sessions: the only file that knows those keys. Knows nothing of what is
asked in one.

| key | type | holds |
|---|---|---|
| ``pilotfish:session:{id}`` | hash | what lists show; how it is guided; counts |
| ``pilotfish:calls:{id}`` | stream | its calls, compressed; the newest ``MOST_CALLS`` |
| ``pilotfish:histories:{id}`` | hash | histories that its calls asked or ended with, by
  digest: the one that the call ended with |
| ``pilotfish:sessions`` | sorted set | ids of sessions by the time of their last call |
| ``pilotfish:end:{digest}`` | string | the session whose call ended with that history |

Every key has a lifetime, renewed when it is written; nothing is scanned.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from service import redis_scripts as scripts
from service.redis_connection import PREFIX, StateError, answering, ids_behind, pack, unpack

SESSIONS = f"{PREFIX}sessions"
MOST_CALLS = 10_000
Scripted = Callable[[Any, Sequence[str], Sequence[Any]], Awaitable[Any]]
"""Runs a registered script with its keys and arguments."""


class SessionGone(StateError):
    """There is no such session (any more)."""


class RedisSessions:
    """The state of all sessions. Raises ``StateError`` where Redis fails."""

    def __init__(self, redis: Any, scripted: Scripted, *, lifetime: float) -> None:
        self._redis, self._scripted, self._lifetime = redis, scripted, int(lifetime)
        self._open = redis.register_script(scripts.OPEN_SESSION)
        self._add = redis.register_script(scripts.ADD_CALL)

    async def opened(
        self, session: str | None, digests: Sequence[str]
    ) -> tuple[str | None, dict[str, Any] | None, tuple[int, str] | None]:
        """The session, if none is named that one of whose calls ended with one of these histories;
        how it is guided, if that was set. Of these histories the first that a call of it ended or
        asked with: its place among them, and the ``end`` of that call."""
        if session is None and not digests:
            return None, None, None
        prefixes = (_session(""), _histories(""), _end(""))
        async with answering():
            found, guide, place, base = await self._scripted(
                self._open, (), (*prefixes, session or "", *digests)
            )
        return (
            found.decode() or None,
            json.loads(guide) if guide else None,
            (place, base.decode()) if base else None,
        )

    async def add(
        self, session: str, call: dict[str, Any], shown: dict[str, str], counts: dict[str, int]
    ) -> None:
        """One call, whose ``asked`` and ``end`` are the digests of the histories that it asked and
        ended with. ``shown`` is what lists show of the session's last call; ``counts`` are added
        up."""
        now, end = time.time(), call["end"]
        keys = (_session(session), _calls(session), _histories(session), _end(end), SESSIONS)
        fields = [part for pair in shown.items() for part in pair]
        added = [part for pair in {"calls": 1, **counts}.items() for part in pair]
        kept = (
            session,
            now,
            self._lifetime,
            MOST_CALLS,
            pack(json.dumps(call)),
            call["asked"],
            end,
        )
        args = (*kept, now - self._lifetime, len(fields), *fields, *added)
        async with answering():
            await self._scripted(self._add, keys, args)

    async def guide(self, session: str, options: dict[str, Any]) -> None:
        """Set how calls of the session are guided that do not say it."""
        now, key = time.time(), _session(session)
        async with answering(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hsetnx(key, "created_at", now)
            pipe.hset(key, mapping={"last_at": now, "guide": json.dumps(options)})
            self._listed(pipe, session, now)
            await pipe.execute()

    def _listed(self, pipe: Any, session: str, now: float) -> None:
        pipe.zadd(SESSIONS, {session: now})
        pipe.zremrangebyscore(SESSIONS, "-inf", now - self._lifetime)
        for key in (SESSIONS, _session(session), _calls(session), _histories(session)):
            pipe.expire(key, self._lifetime)

    async def calls(self, session: str) -> list[dict[str, Any]]:
        """Oldest first. Raises: ``SessionGone``."""
        async with answering(), self._redis.pipeline(transaction=False) as pipe:
            pipe.exists(_session(session))
            pipe.xrange(_calls(session))
            there, rows = await pipe.execute()
        if not there:
            raise SessionGone(f"there is no session {session!r}")
        return [json.loads(unpack(fields[b"e"])) for _, fields in rows]

    async def summary(self, session: str) -> dict[str, Any]:
        """Raises: ``SessionGone``."""
        [summary] = await self._summaries([session])
        if summary is None:
            raise SessionGone(f"there is no session {session!r}")
        return summary

    async def page(self, *, limit: int, after: str | None) -> list[dict[str, Any]]:
        """Summaries, the latest called first, behind the session ``after``. Raises:
        ``SessionGone``."""
        async with answering():
            ids = await ids_behind(self._redis, SESSIONS, after, limit)
        if ids is None:
            raise SessionGone(f"there is no session {after!r} to list behind")
        found = await self._summaries(ids)
        return [summary for summary in found if summary is not None]

    async def forget(self, session: str) -> None:
        """Raises: ``SessionGone``."""
        async with answering(), self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(_session(session), _calls(session), _histories(session))
            pipe.zrem(SESSIONS, session)
            removed, _ = await pipe.execute()
        if not removed:
            raise SessionGone(f"there is no session {session!r}")

    async def _summaries(self, ids: Sequence[str]) -> list[dict[str, Any] | None]:
        async with answering(), self._redis.pipeline(transaction=False) as pipe:
            for session in ids:
                pipe.hgetall(_session(session))
            rows = await pipe.execute()
        return [_summary(session, row) for session, row in zip(ids, rows, strict=True)]


def _session(session: str) -> str:
    return f"{PREFIX}session:{session}"


def _calls(session: str) -> str:
    return f"{PREFIX}calls:{session}"


def _histories(session: str) -> str:
    return f"{PREFIX}histories:{session}"


def _end(digest: str) -> str:
    return f"{PREFIX}end:{digest}"


def _summary(session: str, row: dict[bytes, bytes]) -> dict[str, Any] | None:
    if not row:
        return None
    return {"id": session} | {name.decode(): value.decode() for name, value in row.items()}
