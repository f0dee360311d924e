"""Executes runs: takes them by lease, goes on with each from its journal, and hears what is asked
of it. Knows nothing of HTTP, and of Redis only what ``redis_state`` offers.

A worker is stateless. It may be killed at any moment: when its leases are over others go on. One
that only seemed dead finds its writes refused (``Fenced``), and leaves all as it is.
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal

import structlog

from pilotfish.api import RunRequest
from search.errors import JournalError
from search.run import Run, RunResult
from service.errors import api_error
from service.hacking import HackingWatch
from service.metrics import RUNS, TRAJECTORIES, count_decision
from service.parts import Parts
from service.redis_connection import StateError
from service.redis_state import Claimed, Fenced, RedisState, RunGone, patiently
from service.sandboxes.admission import Admissions
from service.settings import Settings

log = structlog.get_logger()

CLAIM_EVERY = 0.25
"""Seconds between two looks for runs, where nobody tells that there are some."""
RENEW_EVERY = 1.0
"""Seconds between two renewals at most: also how long a cancellation takes to be heard."""
AWAY = 5.0
"""Seconds for which a run is left alone whose journal could not be written."""
MOST_LOST = 20
"""Workers that may be lost at one entry of a run before the run is taken for the cause."""
STOPPING = 10.0
"""Seconds that the runs of a worker that stops have to let go of what they hold."""

Ending = Literal["leave", "lost", "cancelling", "pausing"]


class _Held:
    """A run that this worker executes."""

    def __init__(self, claimed: Claimed) -> None:
        self.id, self.epoch = claimed.id, claimed.epoch
        self.run: Run | None = None
        self.task: asyncio.Task[None] | None = None
        self.ending: Ending | None = None

    async def end(self, why: Ending) -> None:
        """Stop executing it. Only a run that is cancelled takes its sandboxes along."""
        if self.ending is not None or self.task is None:
            return
        self.ending = why
        try:
            if why != "cancelling" and self.run is not None:
                await asyncio.shield(self.run.leave())
        finally:
            self.task.cancel()


class RunWorker:
    """Executes queued runs, ``settings.concurrent_runs`` at once. An async context manager: on the
    way out it stops, and gives what it was at back at once."""

    def __init__(
        self, settings: Settings, parts: Parts, state: RedisState, admissions: Admissions
    ) -> None:
        self._settings, self._parts, self._state = settings, parts, state
        self._admissions = admissions
        self._watch = HackingWatch(
            settings.hacking_margin, settings.hacking_failures, parts.failed_q
        )
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._held: dict[str, _Held] = {}
        self._look = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._owner = ""

    async def __aenter__(self) -> RunWorker:
        self._loops = [
            asyncio.create_task(self._forever(self._claim), name="claims runs"),
            asyncio.create_task(self._forever(self._renew), name="renews leases"),
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        held = list(self._held.values())
        await asyncio.gather(*(one.end("leave") for one in held), return_exceptions=True)
        tasks = [one.task for one in held if one.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOPPING)
            for task in late:
                log.warning("run did not stop in time", task=task.get_name())

    @property
    def alive(self) -> bool:
        return bool(self._loops) and not any(loop.done() for loop in self._loops)

    def wake(self) -> None:
        """There may be a run to take."""
        self._look.set()

    async def _forever(self, once: Callable[[], Awaitable[None]]) -> None:
        """Nothing but its end ends it: a Redis that is away is waited for, and a defect of ours
        must not cost the runs that go on."""
        while True:
            try:
                await once()
            except StateError as error:
                log.warning("Redis is away", error=str(error))
                await asyncio.sleep(1.0)
            except Exception:
                log.exception("the worker stumbled")
                await asyncio.sleep(1.0)

    async def _claim(self) -> None:
        room = self._settings.concurrent_runs - len(self._held)
        if room > 0:
            claimed = await self._state.claim(
                self.name, lease=self._settings.lease, most=min(room, 32)
            )
            for one in claimed:
                self._begin(one)
            if claimed:
                return
        with suppress(TimeoutError):
            async with asyncio.timeout(CLAIM_EVERY):
                await self._look.wait()
        self._look.clear()

    def _begin(self, claimed: Claimed) -> None:
        if (before := self._held.get(claimed.id)) is not None:
            # We were silent for so long that we took over from ourselves.
            asyncio.get_running_loop().create_task(before.end("lost"))
        held = self._held[claimed.id] = _Held(claimed)
        held.task = asyncio.create_task(self._hold(held, claimed), name=f"run {claimed.id}")
        # not in a finally: a task that is cancelled before its first step runs none
        held.task.add_done_callback(lambda _: self._let_go(held))

    async def _renew(self) -> None:
        await asyncio.sleep(min(RENEW_EVERY, self._settings.lease / 4))
        held = list(self._held.values())
        if not held:
            return
        statuses = await self._state.renew(
            [(one.id, one.epoch) for one in held], lease=self._settings.lease
        )
        for one, status in zip(held, statuses, strict=True):
            if status == "lost" or status == "cancelling" or status == "pausing":
                await one.end(status)  # type: ignore[arg-type]

    async def _hold(self, held: _Held, claimed: Claimed) -> None:
        try:
            with structlog.contextvars.bound_contextvars(run=held.id):
                await self._execute(held, claimed)
        except (Fenced, RunGone):
            log.info("run is another's", run=held.id)
        except StateError as error:
            log.warning("run left: Redis is away", run=held.id, error=str(error))
        except Exception:
            log.exception("run left: the worker stumbled", run=held.id)

    def _let_go(self, held: _Held) -> None:
        if self._held.get(held.id) is held:
            del self._held[held.id]
        self.wake()

    async def _execute(self, held: _Held, claimed: Claimed) -> None:
        try:
            if claimed.status in ("cancelling", "pausing"):
                held.ending = claimed.status  # type: ignore[assignment]
                await self._conclude(held)
            elif claimed.lost >= MOST_LOST:
                message = f"{claimed.lost} workers were lost at the same entry of this run"
                await self._finish(held, "failed", {"error": message})
            else:
                await self._ended(held, await self._run(held))
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.ensure_future(self._conclude(held)))
            raise
        except Exception as error:
            await self._failed(held, _cause(error))

    async def _run(self, held: _Held) -> RunResult:
        request = RunRequest.model_validate_json(
            await patiently(lambda: self._state.request(held.id))
        )
        RUNS.labels("started").inc()
        search = request.strategy
        log.info("run started", task=request.task.id, k=search.lookahead.k, n=search.selection.n)
        self._parts.sandbox(request.sandbox)  # says what there is, where this is not
        admission = self._admissions.of(request.sandbox or next(iter(self._parts.sandboxes)))
        labels = {"run": held.id, "owner": await self._owned()}
        held.run = Run(
            request.task,
            self._parts.policy(request.model),
            self._parts.critic(request.critic),
            admission,
            request.strategy,
            self._state.journal(held.id, held.epoch),
            labels=labels,
            evaluating=admission.evaluating,
            decided=count_decision,
            lean=True,
        )
        return await held.run.run()

    async def _owned(self) -> str:
        self._owner = self._owner or await patiently(self._state.owner)
        return self._owner

    async def _conclude(self, held: _Held) -> None:
        """A run that was stopped from outside. Where Redis is away its lease ends by itself, and
        whoever takes it then hears the same."""
        match held.ending:
            case "cancelling":
                await self._finish(held, "cancelled", {"error": None})
            case "pausing":
                if not await self._state.park(held.id, held.epoch):
                    await self._state.give_back(held.id, held.epoch)
            case "lost":
                log.info("run is another's", run=held.id)
            case _:
                await self._state.give_back(held.id, held.epoch)

    async def _failed(self, held: _Held, cause: Exception) -> None:
        if isinstance(cause, JournalError) and held.ending is not None:
            return await self._conclude(held)  # what it was at broke before it was cancelled
        if isinstance(cause, Fenced | RunGone):
            raise cause
        if isinstance(cause, JournalError):
            log.warning("run left: its journal cannot be written", error=str(cause))
            with suppress(StateError):  # else its lease ends by itself
                await self._state.give_back(held.id, held.epoch, delay=AWAY)
            return
        log.error("run failed", exc_info=cause)
        await self._finish(held, "failed", {"error": api_error(cause).message})

    async def _ended(self, held: _Held, result: RunResult) -> None:
        status = "failed" if result.reason == "none" else "succeeded"
        await self._finish(held, status, _outcome(result))
        ends = [trajectory.exit_status for trajectory in result.trajectories]
        log.info("run ended", status=status, selected=result.selected, exit_statuses=ends)
        for trajectory in result.trajectories:
            TRAJECTORIES.labels(trajectory.exit_status).inc()
            self._watch.ended(trajectory)

    async def _finish(self, held: _Held, status: str, result: dict[str, Any]) -> None:
        if await patiently(lambda: self._state.finish(held.id, held.epoch, status, result)):
            RUNS.labels(status).inc()


def _outcome(result: RunResult) -> dict[str, Any]:
    return {
        "selected": result.selected,
        "ranking": result.ranking,
        "reason": result.reason,
        "usage": result.usage.model_dump(),
        "error": _why_nothing(result) if result.reason == "none" else None,
    }


def _why_nothing(result: RunResult) -> str | None:
    """Of a run that has nothing to select: what its last attempt ended of."""
    ended = [t for t in result.trajectories if t.exit_message]
    return f"{ended[-1].exit_status}: {ended[-1].exit_message}" if ended else None


def _cause(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
