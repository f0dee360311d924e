"""Executes runs. The only file that knows docket, which delivers each run to one worker, gives it
to another when that one falls silent, and carries cancellations. Knows nothing of HTTP.

Docket is given the run's id alone: what a run is stands in its request and its journal.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

import structlog
from docket import Docket, Worker

from pilotfish import Decision
from pilotfish.api import RunRequest
from search.contracts import Journal
from search.run import Run, RunResult
from service.errors import api_error
from service.hacking import HackingWatch
from service.metrics import RUNS, TRAJECTORIES, count_decision
from service.parts import Parts
from service.redis_state import RedisState, RunGone, patiently
from service.settings import Settings

log = structlog.get_logger()
_TASK = "execute_run"


class RunQueue:
    """Hands runs to workers. An async context manager."""

    def __init__(self, settings: Settings) -> None:
        self._lease = timedelta(seconds=settings.lease)
        self.docket = Docket(
            name="pilotfish-docket",
            url=settings.redis_url,
            execution_ttl=timedelta(seconds=min(settings.run_lifetime, 900)),
        )

    async def __aenter__(self) -> RunQueue:
        await self.docket.__aenter__()
        # docket takes no task that it does not know, and only a worker's process knows ours
        self.docket.register(_elsewhere, names=[_TASK])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.docket.__aexit__(kind, error, trace)

    async def put(self, run_id: str) -> None:
        """Queue a run. The same id twice is one run."""
        await self.docket.add(_TASK, key=run_id)(run_id)

    async def cancel(self, run_id: str) -> None:
        """Take it out of the queue, or tell its worker to stop. Where that worker is gone, another
        is given the run when the lease is over, and finds that it is to be cancelled."""
        await self.tell(run_id)
        when = datetime.now(UTC) + self._lease
        await self.docket.add(_TASK, when=when, key=f"{run_id}:cancel")(run_id)

    async def tell(self, run_id: str) -> None:
        """Say to whichever worker executes it that the run is cancelled."""
        await self.docket.cancel(run_id)


async def _elsewhere(run_id: str) -> None:
    """Stands for the task where no worker is."""
    raise AssertionError("a process without a worker was given a run")


class RunWorker:
    """Executes queued runs, ``settings.concurrent_runs`` at once. An async context manager: on the
    way out it stops, and leaves what it was at to other workers."""

    def __init__(
        self, settings: Settings, parts: Parts, state: RedisState, queue: RunQueue
    ) -> None:
        self._settings, self._parts, self._state, self._queue = settings, parts, state, queue
        self._watch = HackingWatch(
            settings.hacking_margin, settings.hacking_failures, parts.failed_q
        )
        self._loop: asyncio.Task[None] | None = None
        self._executing: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> RunWorker:
        async def execute_run(run_id: str) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._executing.add(task)
            try:
                with structlog.contextvars.bound_contextvars(run=run_id):
                    await self._execute(run_id)
            finally:
                self._executing.discard(task)

        self._queue.docket.register(execute_run, names=[_TASK])
        self._loop = asyncio.create_task(self._work(), name="run worker")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._loop is not None
        # The loop alone would wait for the runs to end. Cancelled together with it, a run is not
        # acknowledged, and goes to another worker when the lease is over.
        ending = [self._loop, *self._executing]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    @property
    def alive(self) -> bool:
        return self._loop is not None and not self._loop.done()

    async def _work(self) -> None:
        async with Worker(
            self._queue.docket,
            concurrency=self._settings.concurrent_runs,
            redelivery_timeout=timedelta(seconds=self._settings.lease),
            minimum_check_interval=timedelta(milliseconds=50),
            schedule_automatic_tasks=False,
        ) as worker:
            await worker.run_forever()

    async def _execute(self, run_id: str) -> None:
        try:
            request = RunRequest.model_validate_json(
                await patiently(lambda: self._state.request(run_id))
            )
            if not await patiently(lambda: self._started(run_id)):
                return
        except RunGone:
            log.warning("run is gone")
            return
        RUNS.labels("started").inc()
        search = request.strategy
        log.info("run started", task=request.task.id, k=search.lookahead.k, n=search.selection.n)
        try:
            result = await self._run(run_id, request)
        except asyncio.CancelledError:
            # A cancellation that nobody asked for is this worker's own end: another goes on.
            if (await asyncio.shield(self._state.summary(run_id)))["status"] == "cancelling":
                await asyncio.shield(self._finish(run_id, "cancelled", {"error": None}))
            raise
        except Exception as error:
            log.exception("run failed")
            await self._finish(run_id, "failed", {"error": api_error(_cause(error)).message})
            return
        status = "failed" if result.reason == "none" else "succeeded"
        await self._finish(run_id, status, _outcome(result))
        ends = [trajectory.exit_status for trajectory in result.trajectories]
        log.info("run ended", status=status, selected=result.selected, exit_statuses=ends)
        for trajectory in result.trajectories:
            TRAJECTORIES.labels(trajectory.exit_status).inc()
            self._watch.ended(trajectory)

    async def _started(self, run_id: str) -> bool:
        """Whether the run is to be executed, and not to be cancelled or ended."""
        if await self._state.move(run_id, "running", after=("queued", "running")):
            return True
        if (await self._state.summary(run_id))["status"] == "cancelling":
            await self._queue.tell(run_id)  # its worker may be there, and not have heard it
            await self._finish(run_id, "cancelled", {"error": None})
        return False

    async def _run(self, run_id: str, request: RunRequest) -> RunResult:
        run = Run(
            request.task,
            self._parts.policy(request.model),
            self._parts.critic(request.critic),
            self._parts.sandbox(request.sandbox),
            request.strategy,
            _Counting(self._state.journal(run_id)),
            labels={"run": run_id},
        )
        return await run.run()

    async def _finish(self, run_id: str, status: str, result: dict[str, Any]) -> None:
        if await patiently(lambda: self._state.finish(run_id, status, result)):
            RUNS.labels(status).inc()


class _Counting:
    """A journal that counts the decisions that go through it."""

    def __init__(self, inner: Journal) -> None:
        self._inner, self.entries = inner, inner.entries

    async def append(self, kind: str, **data: Any) -> None:
        await self._inner.append(kind, **data)
        if kind == "decided":
            count_decision(Decision.model_validate(data["decision"]))


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
