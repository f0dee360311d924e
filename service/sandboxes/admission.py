"""How many sandboxes of a backend may start, run and be evaluated at a time, and how much memory
they may take together: over all processes that share the Redis. Knows nothing of how one is made.

Each live sandbox has a place, which lasts as the sandbox does: it is kept where a worker dies,
given back where the sandbox is closed or reaped, and ends with its lifetime at the latest.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, Field

from pilotfish import Observation, Task
from search.contracts import Gone, Sandbox, SandboxProvider
from search.errors import SandboxError
from service.metrics import ADMISSION_SECONDS
from service.redis_state import RedisState, StateError, patiently
from service.sandboxes.bubblewrap import BubblewrapSettings

log = structlog.get_logger()

HOST_SHARE = 0.8
"""Of this machine's memory, what its sandboxes may take together where nothing else is set."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two tries for a place."""
STARTING_SECONDS = 1800.0
"""For which a start holds its place if its worker dies meanwhile."""
EVALUATING_SECONDS = 7500.0


class AdmissionSettings(BaseModel):
    """Bounds of one backend. ``None`` is no bound."""

    model_config = ConfigDict(extra="forbid")

    starting: int | None = Field(default=16, ge=1)
    """Sandboxes that start at once."""
    running: int | None = Field(default=None, ge=1)
    """Sandboxes that there are at once, starting ones included."""
    evaluating: int | None = Field(default=None, ge=1)
    """Sandboxes in which tests or the evaluation run at once."""
    memory: int | None = Field(default=None, ge=2**20)
    """Bytes that all sandboxes may take together, each counted with its limit. For bubblewrap
    ``None`` is four fifths of this machine's memory."""


class Admission:
    """A provider whose sandboxes wait for room before they start."""

    def __init__(
        self,
        name: str,
        provider: SandboxProvider,
        state: RedisState,
        settings: AdmissionSettings,
        *,
        weight: int,
        lifetime: float,
        beside: int = 0,
    ) -> None:
        """``weight``: bytes of a sandbox of a task that names none; ``beside``: what every sandbox
        takes on top. ``lifetime``: seconds of a sandbox."""
        self.name, self.provider = name, provider
        self._state, self._settings = state, settings
        self._weight, self._lifetime, self._beside = weight, lifetime, beside

    @asynccontextmanager
    async def start(
        self, task: Task, *, labels: dict[str, str] | None = None
    ) -> AsyncIterator[Sandbox]:
        waiting = f"start-{uuid.uuid4().hex}"
        await self._take("running", waiting, self._weight_of(task), STARTING_SECONDS)
        admitted: _Admitted | None = None
        try:
            starting = self.provider.start(task, labels=labels)
            async with self._holding("starting", STARTING_SECONDS):
                sandbox = await starting.__aenter__()
            try:
                admitted = _Admitted(sandbox, self)
                await self._keep(waiting, sandbox.id)
                yield admitted
            except BaseException as error:
                if not await starting.__aexit__(type(error), error, error.__traceback__):
                    raise
            else:
                await starting.__aexit__(None, None, None)
        finally:
            if admitted is None:
                await self._leave("running", waiting)
            elif not admitted.released:
                await self.left(admitted.id)

    async def attach(self, sandbox_id: str) -> Sandbox:
        """It is there, and takes its room, whatever the bounds say."""
        return _Admitted(await self.provider.attach(sandbox_id), self)

    async def reap(self, gone: Gone | None = None) -> list[str]:
        removed = await self.provider.reap(gone)
        for sandbox_id in removed:
            await self.left(sandbox_id)
        return removed

    @asynccontextmanager
    async def evaluating(self) -> AsyncIterator[None]:
        """To be held while a finished attempt is tested."""
        async with self._holding("evaluating", EVALUATING_SECONDS):
            yield

    async def left(self, sandbox_id: str) -> None:
        await self._leave("running", sandbox_id)

    # ---- places

    def _weight_of(self, task: Task) -> int:
        return (task.memory or self._weight) + self._beside

    def _bounds(self, kind: str) -> tuple[int | None, int | None]:
        settings = self._settings
        match kind:
            case "starting":
                return settings.starting, None
            case "evaluating":
                return settings.evaluating, None
        return settings.running, settings.memory

    @asynccontextmanager
    async def _holding(self, kind: str, seconds: float) -> AsyncIterator[None]:
        place = uuid.uuid4().hex
        await self._take(kind, place, 0, seconds)
        try:
            yield
        finally:
            await self._leave(kind, place)

    async def _take(self, kind: str, place: str, weight: int, seconds: float) -> None:
        most, total = self._bounds(kind)
        if most is None and total is None:
            return
        if total is not None and weight > total:
            raise SandboxError(
                f"a sandbox of {weight:,} bytes fits {self.name} never: all may take {total:,} "
                "(admission.memory)"
            )
        began, pause = time.monotonic(), FIRST_PAUSE
        while not await patiently(
            lambda: self._state.take_place(
                f"{self.name}:{kind}",
                place,
                weight=weight,
                most=most,
                total=total,
                seconds=seconds,
            )
        ):
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        ADMISSION_SECONDS.labels(self.name, kind).observe(time.monotonic() - began)

    async def _keep(self, place: str, sandbox_id: str) -> None:
        await patiently(
            lambda: self._state.rename_place(
                f"{self.name}:running", place, sandbox_id, seconds=self._lifetime
            )
        )

    async def _leave(self, kind: str, place: str) -> None:
        """Where Redis is away the place ends by itself."""
        if self._bounds(kind) == (None, None):
            return
        try:
            await asyncio.shield(self._state.leave_place(f"{self.name}:{kind}", place))
        except StateError as error:
            log.warning("place not given back", backend=self.name, kind=kind, error=str(error))


class _Admitted:
    """A sandbox with its place."""

    def __init__(self, inner: Sandbox, admission: Admission) -> None:
        self.id, self._inner, self._admission = inner.id, inner, admission
        self.released = False

    async def execute(
        self, command: str, *, action_id: str, timeout: float, cwd: str | None = None
    ) -> Observation:
        return await self._inner.execute(command, action_id=action_id, timeout=timeout, cwd=cwd)

    async def write(self, path: str, text: str) -> None:
        await self._inner.write(path, text)

    async def read(self, path: str) -> str:
        return await self._inner.read(path)

    async def close(self) -> None:
        await self._inner.close()
        if not self.released:
            await self._admission.left(self.id)

    async def release(self) -> None:
        self.released = True
        await self._inner.release()


class Admissions:
    """Each backend of a process behind its admission."""

    def __init__(
        self,
        backends: Mapping[str, SandboxProvider],
        bounds: Mapping[str, AdmissionSettings],
        settings: Mapping[str, Any],
        state: RedisState,
    ) -> None:
        """All by a backend's name; ``settings`` are the backends' own."""
        self._backends, self._bounds, self._settings = backends, bounds, settings
        self._state = state

    def __iter__(self) -> Iterator[str]:
        return iter(self._backends)

    def of(self, name: str) -> Admission:
        own = self._settings.get(name)
        bounds = self._bounds.get(name, AdmissionSettings())
        shared, beside = name, 0
        if isinstance(own, BubblewrapSettings):
            # One machine's room is not another's, and its file systems are memory.
            shared, beside = f"{name}@{socket.gethostname()}", 3 * own.disk
            if bounds.memory is None:
                bounds = bounds.model_copy(update={"memory": int(HOST_SHARE * _host_memory())})
        return Admission(
            shared,
            self._backends[name],
            self._state,
            bounds,
            weight=getattr(own, "memory", None) or 0,
            lifetime=getattr(own, "lifetime", 14_400.0),
            beside=beside,
        )


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
