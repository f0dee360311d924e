"""Removes sandboxes whose run is over: what a killed worker could not close. Knows nothing of how a
sandbox is removed, nor of how a run is executed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType

import structlog

from pilotfish.api import FINAL_STATUSES
from search.errors import SandboxError
from service.metrics import REAPED
from service.redis_connection import StateError
from service.redis_state import RedisState
from service.sandboxes.admission import Admissions

log = structlog.get_logger()
PATIENCE = 120.0
"""Seconds for one backend: one that hangs must not keep the others from being looked at."""


class Reconciler:
    """Looks at every backend at its start and then every ``every`` seconds. An async context
    manager."""

    def __init__(self, sandboxes: Admissions, state: RedisState, *, every: float) -> None:
        self._sandboxes, self._state, self._every = sandboxes, state, every
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Reconciler:
        self._loop = asyncio.create_task(self._work(), name="reconciler")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._loop is not None
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            await self.reconcile()
            await asyncio.sleep(self._every)

    async def reconcile(self) -> None:
        """Once. What fails is left for the next time."""
        for name in self._sandboxes:
            try:
                async with asyncio.timeout(PATIENCE):
                    owner = await self._state.owner()
                    removed = await self._sandboxes.of(name).reconcile(_Over(self._state, owner))
            except (SandboxError, StateError, TimeoutError) as error:
                log.warning("sandboxes not looked through", backend=name, error=str(error))
            except Exception:
                log.exception("sandboxes not looked through", backend=name)
            else:
                if removed:
                    REAPED.labels(name).inc(len(removed))
                    log.info("sandboxes removed", backend=name, sandboxes=list(removed))


class _Over:
    """Whether the run that a sandbox was started for is over. One of another Redis's runs is none
    of our business: its lifetime bounds it."""

    def __init__(self, state: RedisState, owner: str) -> None:
        self._state, self._owner = state, owner
        self._known: dict[str, bool] = {}

    async def __call__(self, labels: Mapping[str, str]) -> bool:
        run = labels.get("run")
        if run is None or labels.get("owner") != self._owner:
            return False
        if run not in self._known:
            status = await self._state.status(run)
            self._known[run] = status is None or status in FINAL_STATUSES
        return self._known[run]
