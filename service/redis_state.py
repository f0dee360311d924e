"""All that Redis holds of runs: the only file that knows those keys. Knows nothing of what runs.

| key | type | holds |
|---|---|---|
| ``pilotfish:run:{id}`` | hash | request, status, times, result; who executes it, by epoch |
| ``pilotfish:journal:{id}`` | stream | its journal, an entry a message, compressed over 1 kB |
| ``pilotfish:runs`` | sorted set | ids of runs by time of creation |
| ``pilotfish:due`` | sorted set | runs that wait for a worker, by the time from which it may come |
| ``pilotfish:leases`` | sorted set | runs that a worker has, by the time until which it has them |
| ``pilotfish:once:{key}`` | hash | the run that was made for an idempotency key |
| ``pilotfish:places:{name}`` | sorted set | what is taken of a backend's room, until when |
| ``pilotfish:weights:{name}`` | hash | the weight of each of these |
| ``pilotfish:owner`` | string | the name of this Redis's runs on the labels of sandboxes |

Every key has a lifetime, renewed when it is written; nothing is scanned. Times in ``due``,
``leases`` and ``places`` are Redis's own clock (``service/redis_scripts.py``), so that workers need
not agree about theirs.

Not docket, which the design began with: after a dropped connection its worker renewed no lease and
heard no cancellation until all its runs had ended, and it fences no writes.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from search.errors import NotWritten
from service import redis_scripts as scripts
from service.redis_connection import (
    ANSWER_SECONDS,
    PREFIX,
    StateError,
    answering,
    ids_behind,
    pack,
    pool,
    unpack,
)
from service.redis_line import Line
from service.retrying import retried

T = TypeVar("T")

Asked = Literal["cancel", "pause", "resume", "retry"]
_BECOMES: dict[Asked, dict[str, str]] = {
    "cancel": {
        "queued": "cancelled", "paused": "cancelled", "running": "cancelling",
        "pausing": "cancelling",
    },
    "pause": {"queued": "paused", "running": "pausing"},
    "resume": {"paused": "queued", "pausing": "running"},
    "retry": {"failed": "queued", "cancelled": "queued"},
}  # fmt: skip
"""What each status becomes. What is not named stays."""
_ASKED_ENTRY: dict[Asked, str] = {
    "cancel": "run_ended", "pause": "paused", "resume": "resumed", "retry": "retried",
}  # fmt: skip

RUNS = f"{PREFIX}runs"
DUE, LEASES, OWNER = f"{PREFIX}due", f"{PREFIX}leases", f"{PREFIX}owner"
_BLOCK_MS = 4000


class RunGone(StateError):
    """There is no such run (any more)."""


class Fenced(StateError, NotWritten):
    """Another worker has the run: this one must stop, and leave everything as it is."""


class KeyUsed(StateError):
    """An idempotency key that stands for another request."""


class Claimed(NamedTuple):
    """A run that this worker is to go on with."""

    id: str
    epoch: int
    """Stands on every write of this worker's for it."""
    status: str
    """``running``, or what is asked of it: ``cancelling``, ``pausing``."""
    lost: int
    """How many workers were lost at it one after another without writing a single entry."""


class RedisState:
    """The state of all runs. Raises ``StateError`` where Redis fails."""

    def __init__(self, url: str, *, lifetime: float) -> None:
        # redis-py's types do not know what it answers when it does not decode
        self.redis: Any = Redis(connection_pool=pool(url, 64))
        self._readers: Any = Redis(connection_pool=pool(url, 1024))
        self._line = Line(pool(url, 1))
        self._lifetime = int(lifetime)
        self._create = self.redis.register_script(scripts.CREATE)
        self._claim = self.redis.register_script(scripts.CLAIM)
        self._renew = self.redis.register_script(scripts.RENEW)
        self._append = self.redis.register_script(scripts.APPEND)
        self._finish = self.redis.register_script(scripts.FINISH)
        self._give_back = self.redis.register_script(scripts.GIVE_BACK)
        self._park = self.redis.register_script(scripts.PARK)
        self._ask = self.redis.register_script(scripts.ASK)
        self._take_place = self.redis.register_script(scripts.TAKE_PLACE)

    async def close(self) -> None:
        await self._line.close()
        await self.redis.aclose(close_connection_pool=True)
        await self._readers.aclose(close_connection_pool=True)

    async def scripted(self, script: Any, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """What a registered script returns, over the connection that is shared. Raises:
        ``RedisError``."""
        try:
            return await self._line("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await script(keys=keys, args=args)

    async def ping(self) -> bool:
        try:
            async with answering():
                return bool(await self.redis.ping())
        except StateError:
            return False

    async def create(
        self, run_id: str, request: str, meta: dict[str, str], *, once: str | None = None
    ) -> str:
        """A new run, queued: ``request`` is its JSON, ``meta`` what lists show. Its id; with the
        same ``once`` as a run made before, that one's. Raises: ``KeyUsed``."""
        now = time.time()
        fingerprint = hashlib.sha256(request.encode()).hexdigest() if once else ""
        keys = [_run(run_id), RUNS, DUE, f"{PREFIX}once:{once or run_id}"]
        given: list[Any] = [run_id, self._lifetime, pack(request), json.dumps(meta), now]
        async with answering():
            made = await self._create(keys=keys, args=[*given, fingerprint, now - self._lifetime])
        if made is None:
            raise KeyUsed(f"the idempotency key {once!r} was used for another request")
        return str(made.decode())

    async def claim(self, worker: str, *, lease: float, most: int) -> list[Claimed]:
        """Take up to ``most`` runs: those whose worker fell silent, then those that wait."""
        async with answering():
            found = await self._claim(
                keys=[DUE, LEASES], args=[f"{PREFIX}run:", lease, worker, most, self._lifetime]
            )
        return [
            Claimed(i.decode(), epoch, status.decode(), lost) for i, epoch, status, lost in found
        ]

    async def renew(self, held: Sequence[tuple[str, int]], *, lease: float) -> list[str]:
        """The status of each run that this worker holds by id and epoch, ``lost`` where it does not
        hold it any more; the leases of the others begin anew."""
        args = [part for one in held for part in one]
        async with answering():
            answers = await self._renew(
                keys=[LEASES], args=[f"{PREFIX}run:", lease, self._lifetime, *args]
            )
        return [answer.decode() for answer in answers]

    async def give_back(self, run_id: str, epoch: int, *, delay: float = 0.0) -> bool:
        """Let another worker have the run, after ``delay`` seconds; whether it was this one's."""
        async with answering():
            given = await self._give_back(
                keys=[_run(run_id), LEASES, DUE], args=[run_id, epoch, delay, self._lifetime]
            )
        return bool(given)

    async def park(self, run_id: str, epoch: int) -> bool:
        """Lay a run aside that is to pause; false where it is not to (any more)."""
        async with answering():
            parked = await self._park(
                keys=[_journal(run_id), _run(run_id), LEASES],
                args=[_entry_of("paused"), self._lifetime, epoch, run_id],
            )
        return bool(parked)

    async def ask(self, run_id: str, what: Asked) -> tuple[str, str]:
        """Ask for a run to be cancelled, paused, resumed or tried again: its status before and
        after. What its worker has to carry out it hears with its next renewal. Raises: ``RunGone``.
        """
        becomes = _BECOMES[what]
        ended = {"status": "cancelled", "error": None} if what == "cancel" else {}
        entry = _entry_of(_ASKED_ENTRY[what], **ended)
        pairs = [status for pair in becomes.items() for status in pair]
        async with answering():
            moved = await self._ask(
                keys=[_journal(run_id), _run(run_id), DUE],
                args=[entry, self._lifetime, run_id, *pairs],
            )
        if moved is None:
            raise RunGone(f"there is no run {run_id!r}")
        return moved[0].decode(), moved[1].decode()

    async def status(self, run_id: str) -> str | None:
        """``None`` where there is no such run."""
        async with answering():
            status = await self.redis.hget(_run(run_id), "status")
        return None if status is None else str(status.decode())

    async def owner(self) -> str:
        """The name that sandboxes of this Redis's runs carry, and those of others do not."""
        async with answering():
            await self.redis.set(OWNER, uuid.uuid4().hex, nx=True)
            await self.redis.expire(OWNER, self._lifetime)
            return str((await self.redis.get(OWNER)).decode())

    async def take_place(
        self,
        name: str,
        place: str,
        *,
        weight: int,
        most: int | None,
        total: int | None,
        seconds: float,
    ) -> bool:
        """Take room of ``name`` for ``seconds``, or keep what was taken: at most ``most`` places,
        of ``total`` weight together; ``None`` is no bound. Whether there was room."""
        bounds: list[str | int] = ["" if most is None else most, "" if total is None else total]
        async with answering():
            taken = await self._take_place(
                keys=_places(name), args=[place, weight, *bounds, seconds, self._lifetime]
            )
        return bool(taken)

    async def leave_place(self, name: str, place: str) -> None:
        places, weights = _places(name)
        async with answering(), self.redis.pipeline(transaction=True) as pipe:
            pipe.zrem(places, place)
            pipe.hdel(weights, place)
            await pipe.execute()

    async def request(self, run_id: str) -> str:
        """The JSON that the run was made from. Raises: ``RunGone``."""
        async with answering():
            packed = await self.redis.hget(_run(run_id), "request")
        if packed is None:
            raise RunGone(f"there is no run {run_id!r}")
        return unpack(packed)

    async def summary(self, run_id: str) -> dict[str, Any]:
        """Status, times and, when it has ended, the result. Raises: ``RunGone``."""
        [summary] = await self._summaries([run_id])
        if summary is None:
            raise RunGone(f"there is no run {run_id!r}")
        return summary

    async def page(self, *, limit: int, after: str | None) -> list[dict[str, Any]]:
        """Summaries, newest first, behind the run ``after``."""
        async with answering():
            ids = await ids_behind(self.redis, RUNS, after, limit)
        if ids is None:
            raise RunGone(f"there is no run {after!r} to list behind")
        summaries = await self._summaries(ids)
        return [summary for summary in summaries if summary is not None]

    async def _summaries(self, ids: list[str]) -> list[dict[str, Any] | None]:
        names = ["request", "status", "created_at", "ended_at", "meta", "result"]
        async with answering(), self.redis.pipeline(transaction=False) as pipe:
            for run_id in ids:
                pipe.hmget(_run(run_id), names)
            rows = await pipe.execute()
        return [_summary(i, row) for i, row in zip(ids, rows, strict=True)]

    async def finish(self, run_id: str, epoch: int, status: str, result: dict[str, Any]) -> bool:
        """The run has ended, and its journal says so; false where it had ended before, or another
        worker has it."""
        entry = _entry_of("run_ended", status=status, **result)
        async with answering():
            ended = await self._finish(
                keys=[_journal(run_id), _run(run_id), LEASES, DUE],
                args=[entry, self._lifetime, epoch, run_id, status, time.time(),
                      pack(json.dumps(result))],
            )  # fmt: skip
        return bool(ended)

    def journal(self, run_id: str, epoch: int) -> RedisJournal:
        return RedisJournal(self, run_id, epoch)

    async def append(self, run_id: str, epoch: int, entry: dict[str, Any]) -> str:
        """Raises: ``RunGone``; ``Fenced``; ``StateError``."""
        keys = [_journal(run_id), _run(run_id)]
        args: list[Any] = [pack(json.dumps(entry)), self._lifetime, epoch]
        async with answering():
            added = await self.scripted(self._append, keys, args)
        if added is None:
            raise RunGone(f"there is no run {run_id!r}")
        if added == b"fenced":
            raise Fenced(f"another worker has run {run_id}")
        return str(added.decode())

    async def has(self, run_id: str, token: str) -> bool:
        """Whether one of the newest entries has this ``token``: an append whose answer was lost may
        have been made."""
        async with answering():
            rows = await self.redis.xrevrange(_journal(run_id), count=1000)
        return any(_entry(row).get("token") == token for row in rows)

    async def entries(self, run_id: str, *, after: str = "-") -> list[dict[str, Any]]:
        """The journal, oldest first, each entry with its ``id``."""
        start = "-" if after == "-" else f"({after}"
        async with answering():
            rows = await self.redis.xrange(_journal(run_id), min=start)
        return [_entry(row) for row in rows or []]

    async def follow(
        self, run_id: str, *, after: str = "0"
    ) -> AsyncIterator[dict[str, Any] | None]:
        """Entries behind ``after`` as they come; ``None`` now and then where none does. It does
        not end: the caller knows when the run has."""
        last = after
        while True:
            async with answering(_BLOCK_MS / 1000 + ANSWER_SECONDS):
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

    def __init__(self, state: RedisState, run_id: str, epoch: int) -> None:
        self._state, self._run_id, self._epoch = state, run_id, epoch

    async def append(self, kind: str, **data: Any) -> None:
        entry = {"kind": kind, "at": time.time(), "token": uuid.uuid4().hex[:12], **data}
        tried = False

        async def once() -> None:
            nonlocal tried
            if tried and await self._state.has(self._run_id, entry["token"]):
                return
            tried = True
            await self._state.append(self._run_id, self._epoch, entry)

        await patiently(once)

    async def entries(self) -> list[dict[str, Any]]:
        return await patiently(lambda: self._state.entries(self._run_id))


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """What ``call`` gives, tried again for a minute where Redis is away. For what all the work of a
    run stands behind; whoever answers a request says so at once instead."""
    return await retried(call, _away, attempts=12, timeout=60.0)


def _away(error: Exception) -> bool:
    return isinstance(error, StateError) and not isinstance(error, RunGone | Fenced | KeyUsed)


def _run(run_id: str) -> str:
    return f"{PREFIX}run:{run_id}"


def _journal(run_id: str) -> str:
    return f"{PREFIX}journal:{run_id}"


def _places(name: str) -> list[str]:
    return [f"{PREFIX}places:{name}", f"{PREFIX}weights:{name}"]


def _entry_of(kind: str, **data: Any) -> bytes:
    return pack(json.dumps({"kind": kind, "at": time.time(), **data}))


def _entry(row: tuple[bytes, dict[bytes, bytes]]) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(unpack(row[1][b"e"]))
    return {"id": row[0].decode(), **entry}


def _summary(run_id: str, row: list[bytes | None]) -> dict[str, Any] | None:
    request, status, created, ended, meta, result = row
    if request is None or status is None or created is None:
        return None
    return {
        "id": run_id,
        "request": json.loads(unpack(request)),
        "status": status.decode(),
        "created_at": float(created),
        "ended_at": float(ended) if ended else None,
        "meta": json.loads(meta or b"{}"),
        "result": json.loads(unpack(result)) if result else None,
    }
