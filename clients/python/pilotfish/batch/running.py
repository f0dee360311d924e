"""Drives a batch: at most so many runs at once, each found again after whatever happened. Knows
nothing of the screen.

A try of a task has a key, which is on disk before the service hears of it; the service makes one
run of a key, however often it is asked. So a process that was killed at any point asks again, and
gets the same run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from pilotfish.api import FINAL_STATUSES, RunView
from pilotfish.batch.folder import BatchFolder, State
from pilotfish.batch.results import Result, Summary, result_of
from pilotfish.client import AsyncPilotfish
from pilotfish.errors import ApiStatusError, NotFound, Overloaded, PilotfishError
from pilotfish.retries import Patience
from pilotfish.strategy import Strategy
from pilotfish.task import Task

T = TypeVar("T")
_REFUSED = (400, 413, 422)
"""Statuses of a request that is wrong in itself: the next task's may not be."""
_FIRST_LOOK, _LAST_LOOK = 0.2, 5.0
"""Seconds between looks at a run: they grow."""
_GOODBYE = 10.0
"""Seconds that cancelling may take in all."""


class Listener:
    """What is told of a batch under way. The base keeps quiet."""

    def began(self, task_id: str) -> None: ...

    def ended(self, result: Result, *, again: bool) -> None:
        """``again``: the infrastructure failed it, and it is tried once more."""

    def waiting(self, error: PilotfishError) -> None:
        """The service is away."""


class Batch:
    """Runs ``tasks`` into ``folder``, which is locked and opened.

    ``options`` are those of ``create_run``. ``patience``: for how many seconds the service may be
    away. ``tries``: how often a task is tried in all, in this process, where the infrastructure
    fails it. Being cancelled cancels what is under way, unless ``detach``.
    """

    def __init__(
        self,
        client: AsyncPilotfish,
        folder: BatchFolder,
        strategy: Strategy,
        options: dict[str, Any],
        *,
        workers: int = 8,
        patience: float = 600.0,
        tries: int = 2,
        detach: bool = False,
        listener: Listener | None = None,
    ) -> None:
        self._client, self._folder = client, folder
        self._strategy, self._options = strategy, options
        self._workers, self._patience, self._tries = workers, patience, tries
        self._detach = detach
        self._listener = listener or Listener()
        self._under_way: set[str] = set()
        self._next_derive = 0.0

    async def run(self, tasks: Iterable[Task]) -> Summary:
        """Until each has a result. The first error that is not one task's own ends it, and leaves
        in the service what is under way. Raises: ``PilotfishError``, ``FolderError``."""
        queue = iter(tasks)
        workers = [asyncio.create_task(self._work(queue)) for _ in range(self._workers)]
        try:
            # not gather: that would cancel workers before they are told to stop, and so twice
            ended, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            for worker in ended:
                worker.result()
        except asyncio.CancelledError:
            await self._stop(workers)
            if not self._detach:
                await self._cancel_all()
            raise
        finally:
            await self._stop(workers)
            summary = self._folder.derive()
        return summary

    async def _stop(self, workers: list[asyncio.Task[None]]) -> None:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    async def _cancel_all(self) -> None:
        async def cancel(run_id: str) -> None:
            with suppress(PilotfishError):
                await self._client.cancel_run(run_id)

        under_way = list(self._under_way)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.gather(*map(cancel, under_way)), _GOODBYE)

    async def _work(self, queue: Iterable[Task]) -> None:
        for task in queue:
            for number in range(1, self._tries + 1):
                state = self._state(task.id)
                if state is None:
                    break
                self._listener.began(task.id)
                result = await self._one(task, state)
                again = result.outcome == "infrastructure" and number < self._tries
                self._listener.ended(result, again=again)
                self._derive_sometimes()
                if not again:
                    break

    def _state(self, task_id: str) -> State | None:
        """Where to go on with a task; ``None`` where it is through."""
        result = self._folder.result(task_id)
        if result is not None:
            return None if result.outcome == "done" else self._folder.next_try(task_id)
        return self._folder.state(task_id) or self._folder.next_try(task_id)

    async def _one(self, task: Task, state: State) -> Result:
        try:
            run = await self._ended(task, state)
        except ApiStatusError as error:
            if error.status not in _REFUSED:
                raise
            result = Result(task_id=task.id, outcome="refused", error=str(error))
            self._folder.put_result(result)
            return result

        async def fetched() -> Result:
            attempts, submission = await self._folder.put_trajectories(
                task.id, self._client.stream_trajectories(run.id), run.selected
            )
            return result_of(run, attempts, submission)

        result = await self._patiently(fetched)
        self._folder.put_result(result)
        return result

    async def _ended(self, task: Task, state: State) -> RunView:
        """The run of this try, made if need be, when it has ended."""
        while True:
            try:
                if state.run_id is None:
                    run = await self._made(task, state)
                    state = state.model_copy(update={"run_id": run.id})
                return await self._wait(state.run_id or "")
            except NotFound as error:
                if error.code != "run_not_found" or state.run_id is None:
                    raise
                # the service has forgotten it: its lifetime is over, or its Redis was emptied
                state = self._folder.next_try(task.id)

    async def _made(self, task: Task, state: State) -> RunView:
        # not cut short by a Ctrl-C: a run whose id nobody knows could not be cancelled
        making = asyncio.ensure_future(self._make(task, state))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            with suppress(asyncio.TimeoutError, PilotfishError):
                run = await asyncio.wait_for(making, _GOODBYE)
                self._under_way.add(run.id)
            raise

    async def _make(self, task: Task, state: State) -> RunView:
        key = self._folder.key(state)

        def create() -> Awaitable[RunView]:
            return self._client.create_run(
                task, self._strategy, idempotency_key=key, **self._options
            )

        run = await self._patiently(create)
        self._folder.put_state(state.model_copy(update={"run_id": run.id}))
        return run

    async def _wait(self, run_id: str) -> RunView:
        self._under_way.add(run_id)
        pause = _FIRST_LOOK
        while True:
            run = await self._patiently(lambda: self._client.get_run(run_id, trajectories=False))
            if run.status in FINAL_STATUSES:
                self._under_way.discard(run_id)
                return run
            await asyncio.sleep(pause)
            pause = min(pause * 1.3, _LAST_LOOK)

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        patience = Patience(self._client.url, self._patience)
        while True:
            try:
                return await call()
            except Overloaded as error:  # it is there, and says when to come again
                patience.heard()
                pause = max(error.retry_after or 1.0, 0.2)
            except PilotfishError as error:
                pause = patience.pause(error)
                self._listener.waiting(error)
            await asyncio.sleep(pause)

    def _derive_sometimes(self) -> None:
        """Not after each task: it reads all results."""
        now = time.monotonic()
        if now >= self._next_derive:
            self._folder.derive()
            took = time.monotonic() - now
            self._next_derive = now + max(1.0, 20 * took)
