"""How many sandboxes of a backend may start, run and be evaluated at a time, and how much memory
they may take together: over all processes that share the Redis. Knows nothing of how one is made.

Each live sandbox has a place, which lasts as the sandbox does: while one starts its worker keeps
the place, and then whoever reconciles, by the sandbox's labels, whatever becomes of the worker.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, Field

from pilotfish import Task
from search.contracts import Gone, Sandbox, SandboxProvider
from search.errors import SandboxError
from service.metrics import ADMISSION_SECONDS
from service.redis_connection import StateError
from service.redis_state import RedisState, patiently
from service.sandboxes.bubblewrap import BubblewrapSettings

log = structlog.get_logger()

HOST_SHARE = 0.8
"""Of this machine's memory, what its sandboxes may take together where nothing else is set."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two tries for a place."""
PLACE, WEIGHT, SEPARATOR = "place", "weight", "@"
LEAST_KEPT = 15.0
"""Seconds for which a place lasts at least that nobody keeps any more."""


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
        kept: float,
        beside: int = 0,
    ) -> None:
        """``weight``: bytes of a sandbox of a task that names none; ``beside``: what every sandbox
        takes on top. ``kept``: seconds for which a place lasts that nobody keeps any more."""
        self.name, self.provider = name, provider
        self._state, self._settings = state, settings
        self._weight, self._kept, self._beside = weight, kept, beside

    @asynccontextmanager
    async def start(
        self, task: Task, *, labels: dict[str, str] | None = None
    ) -> AsyncIterator[Sandbox]:
        place = uuid.uuid4().hex
        weight = (task.memory or self._weight) + self._beside
        admitted: _Admitted | None = None
        try:
            async with AsyncExitStack() as stack:
                await self._wait("running", place, weight)
                await stack.enter_async_context(self._kept_up("running", place, weight))
                async with self._holding("starting"):
                    own = {PLACE: place, WEIGHT: str(weight)}
                    starting = self.provider.start(task, labels=(labels or {}) | own)
                    sandbox = await stack.enter_async_context(starting)
                admitted = _Admitted(sandbox, place, self)
                yield admitted
        finally:
            if admitted is None or not admitted.released:
                await self.left(place)

    async def attach(self, sandbox_id: str) -> Sandbox:
        """It is there, and has its place, whatever the bounds say."""
        inner, _, place = sandbox_id.rpartition(SEPARATOR)
        return _Admitted(await self.provider.attach(inner), place, self)

    async def reap(self, gone: Gone | None = None) -> dict[str, Mapping[str, str]]:
        removed = await self.provider.reap(gone)
        for labels in removed.values():
            if place := labels.get(PLACE):
                await self.left(place)
        return removed

    async def reconcile(self, gone: Gone) -> dict[str, Mapping[str, str]]:
        """Reap, and keep the places of the sandboxes that are there. Raises: ``StateError``."""
        there: list[Mapping[str, str]] = []

        async def seen(labels: Mapping[str, str]) -> bool:
            over = await gone(labels)
            if not over and PLACE in labels:
                there.append(labels)
            return over

        removed = await self.reap(seen)
        for labels in there if self._bounded("running") else []:
            await self._state.take_place(
                f"{self.name}:running",
                labels[PLACE],
                weight=int(labels[WEIGHT]),
                most=None,
                total=None,
                seconds=self._kept,
            )
        return removed

    @asynccontextmanager
    async def evaluating(self) -> AsyncIterator[None]:
        """To be held while a finished attempt is tested."""
        async with self._holding("evaluating"):
            yield

    async def left(self, place: str) -> None:
        """What a sandbox took is free again."""
        await self._leave("running", place)

    # ---- places

    def _bounded(self, kind: str) -> bool:
        return self._bounds(kind) != (None, None)

    def _bounds(self, kind: str) -> tuple[int | None, int | None]:
        settings = self._settings
        match kind:
            case "starting":
                return settings.starting, None
            case "evaluating":
                return settings.evaluating, None
        return settings.running, settings.memory

    @asynccontextmanager
    async def _holding(self, kind: str) -> AsyncIterator[None]:
        """A place, kept as long as this process lives and is in here."""
        place = uuid.uuid4().hex
        try:
            await self._wait(kind, place, 0)
            async with self._kept_up(kind, place, 0):
                yield
        finally:
            await self._leave(kind, place)

    @asynccontextmanager
    async def _kept_up(self, kind: str, place: str, weight: int) -> AsyncIterator[None]:
        keeping = asyncio.create_task(self._keep(kind, place, weight))
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _wait(self, kind: str, place: str, weight: int) -> None:
        if not self._bounded(kind):
            return
        total = self._bounds(kind)[1]
        if total is not None and weight > total:
            raise SandboxError(
                f"a sandbox of {weight:,} bytes fits {self.name} never: all may take {total:,} "
                "(admission.memory)"
            )
        began, pause = time.monotonic(), FIRST_PAUSE
        while not await patiently(lambda: self._take(kind, place, weight)):
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        ADMISSION_SECONDS.labels(self.name, kind).observe(time.monotonic() - began)

    async def _keep(self, kind: str, place: str, weight: int) -> None:
        while self._bounded(kind):
            await asyncio.sleep(self._kept / 3)
            with suppress(StateError):
                await self._take(kind, place, weight)

    async def _take(self, kind: str, place: str, weight: int) -> bool:
        most, total = self._bounds(kind)
        return await self._state.take_place(
            f"{self.name}:{kind}", place, weight=weight, most=most, total=total, seconds=self._kept
        )

    async def _leave(self, kind: str, place: str) -> None:
        """Where Redis is away the place ends by itself."""
        if not self._bounded(kind):
            return
        try:
            await asyncio.shield(self._state.leave_place(f"{self.name}:{kind}", place))
        except StateError as error:
            log.warning("place not given back", backend=self.name, kind=kind, error=str(error))


class _Admitted:
    """A sandbox with its place. The place is part of its id, so that whoever attaches to it can
    give it back."""

    def __init__(self, inner: Sandbox, place: str, admission: Admission) -> None:
        self.id = f"{inner.id}{SEPARATOR}{place}"
        self._inner, self._place, self._admission = inner, place, admission
        self.execute, self.write, self.read = inner.execute, inner.write, inner.read
        self.released = False

    async def close(self) -> None:
        await self._inner.close()
        if not self.released:
            await self._admission.left(self._place)

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
        *,
        reconcile: float,
    ) -> None:
        """All by a backend's name; ``settings`` are the backends' own; ``reconcile`` is how often
        ``Admission.reconcile`` is called, seconds."""
        self._kept = max(LEAST_KEPT, 2 * reconcile)
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
            kept=self._kept,
            beside=beside,
        )


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
