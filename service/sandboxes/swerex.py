"""Sandboxes on SWE-ReX servers that somebody else started, by URL. Knows nothing of what isolates
those servers from the rest of the world.

What isolation this gives: none between tasks but a folder. A SWE-ReX server is one machine (most
often a container) with one user; every task that is put there gets a working folder of its own,
which is removed at its end with all processes that the task left. A task that wants to can read and
change the folders, processes and network of its neighbours. Give each server to trusted tasks only,
or as many servers as there are sandboxes at a time, and set ``sandboxes_per_server`` to 1.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Literal, Self

import structlog
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from pilotfish import Observation, Task
from search.commands import run_by
from search.contracts import Gone
from search.errors import SandboxError, SandboxLost
from search.evaluation import write_files
from service.http_client import Client
from service.sandboxes.actions import (
    GRACE,
    Action,
    Actions,
    ScriptedActions,
    execute_once,
)
from service.sandboxes.server import Reply, RexServer, Server

log = structlog.get_logger()


class SwerexSandbox:
    """A sandbox behind a server of the SWE-ReX protocol. ``remove`` ends it; ``let_go`` frees what
    this handle holds, and no more."""

    def __init__(
        self,
        sandbox_id: str,
        server: Server,
        actions: Actions,
        workdir: str,
        remove: Callable[[], Awaitable[None]],
        let_go: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.id = sandbox_id
        self.workdir = workdir
        self.server = server
        self.actions = actions
        self._remove, self._let_go = remove, let_go
        self._closed = self._released = False

    async def execute(
        self, command: str, *, action_id: str, timeout: float, cwd: str | None = None
    ) -> Observation:
        self._check_open()
        folder = self._path(cwd) if cwd else self.workdir
        action = Action(action_id, command, timeout, folder)
        return await execute_once(self.actions, action, stop=lambda: not self._released)

    async def write(self, path: str, text: str) -> None:
        body = {"path": self._path(path), "content": text}
        await self._file("write_file", body)

    async def read(self, path: str) -> str:
        body = {"path": self._path(path), "encoding": "utf-8", "errors": "backslashreplace"}
        reply = await self._file("read_file", body)
        return str(reply.fields["content"])

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await asyncio.shield(asyncio.ensure_future(self._remove()))

    async def release(self) -> None:
        if not self._closed:
            self._closed = self._released = True
            if self._let_go is not None:
                await self._let_go()

    async def prepare(self, task: Task, *, timeout: float) -> None:
        """Write the task's files and run its set-up."""
        await write_files(self, task.files)
        for index, command in enumerate(task.setup):
            result = await self.execute(
                run_by(task, command), action_id=f"setup {index}", timeout=timeout
            )
            if result.exit_code != 0:
                how = "took too long" if result.timed_out else f"exited with {result.exit_code}"
                raise SandboxError(
                    f"set-up of task {task.id!r} failed: {command!r} {how}\n{result.output[-4000:]}"
                )

    async def _file(self, route: str, body: dict[str, str]) -> Reply:
        self._check_open()
        reply = await self.server.post(route, body, patience=GRACE)
        if reply.failure:
            raise SandboxError(f"{route} {body['path']}: {reply.message}")
        return reply

    def _path(self, path: str) -> str:
        return path if path.startswith("/") else f"{self.workdir}/{path}"

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxLost(f"sandbox {self.id} was closed")


class SwerexServerSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: str
    """For example ``http://sandbox-1:8000``."""
    token: SecretStr = SecretStr("")
    """Sent as ``X-API-Key``."""


class SwerexSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["swerex"] = "swerex"
    servers: list[SwerexServerSettings] = Field(min_length=1)
    sandboxes_per_server: int = Field(default=16, ge=1)
    """A start beyond that waits until another sandbox is closed."""
    images: list[str] = Field(default_factory=list)
    """The images that these servers run, as tasks name them; empty takes any task."""
    folder: str = "/tmp/pilotfish"
    """Where on the servers the tasks' folders are made."""
    output: int = Field(default=100_000, ge=1000)
    """Bytes of a command's output that are kept: half from its beginning, half from its end."""
    setup_timeout: float = Field(default=600.0, gt=0)
    """Seconds for each of a task's set-up commands."""
    lifetime: float = Field(default=14_400.0, gt=0)
    """Seconds after which ``reap`` removes a sandbox whatever it does."""
    attempts: int = Field(default=5, ge=1)
    """How often a request is tried while the server cannot be reached."""


class SwerexProvider:
    """Starts sandboxes on SWE-ReX servers. An async context manager: it holds the connections."""

    def __init__(self, settings: SwerexSettings) -> None:
        self.settings = settings
        self._client = Client(trust_env=False)
        self._servers: dict[str, RexServer] = {}
        for server in settings.servers:
            name = hashlib.sha256(server.url.encode()).hexdigest()[:8]
            token = server.token.get_secret_value()
            self._servers[name] = RexServer(
                self._client, server.url, token=token, attempts=settings.attempts
            )
        self._used = dict.fromkeys(self._servers, 0)
        self._freed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    @asynccontextmanager
    async def start(
        self, task: Task, *, labels: dict[str, str] | None = None
    ) -> AsyncIterator[SwerexSandbox]:
        settings = self.settings
        refuse_hosts(task, "SWE-ReX servers")
        if settings.images and task.image not in settings.images:
            raise SandboxError(f"no image {task.image!r} here, only {', '.join(settings.images)}")
        async with self._place() as name:
            sandbox = self._sandbox(f"{name}.{uuid.uuid4().hex}")
            try:
                await self._create(sandbox, labels or {})
                await sandbox.prepare(task, timeout=settings.setup_timeout)
                yield sandbox
            finally:
                await self._close(sandbox)

    async def attach(self, sandbox_id: str) -> SwerexSandbox:
        server = self._servers.get(sandbox_id.partition(".")[0])
        if server is None:
            raise SandboxLost(f"sandbox {sandbox_id} is on none of the servers")
        sandbox = self._sandbox(sandbox_id)
        await self._shell(server, f"test -d '{sandbox.workdir}'", lost=sandbox_id)
        return sandbox

    async def reap(self, gone: Gone | None = None) -> dict[str, Mapping[str, str]]:
        """As the contract says. A server that cannot be reached is left for the next time."""
        removed: dict[str, Mapping[str, str]] = {}
        for name, server in self._servers.items():
            try:
                found = await self._shell(
                    server, f"cd '{self.settings.folder}' 2>/dev/null && ls -d {name}.* || true"
                )
            except SandboxError as error:
                log.warning("sandbox_server_unreachable", url=server.url, error=str(error))
                continue
            for sandbox_id in found.split():
                sandbox = self._sandbox(sandbox_id)
                record = await self._record_of(sandbox)
                if record is not None and await _is_over(record, gone):
                    await self._close(sandbox)
                    removed[sandbox_id] = record["labels"]
        return removed

    async def _record_of(self, sandbox: SwerexSandbox) -> dict[str, Any] | None:
        """``None`` while it is being made, or removed."""
        try:
            record: dict[str, Any] = json.loads(await sandbox.read(self._record(sandbox.id)))
        except (SandboxError, ValueError):
            return None
        return record

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[str]:
        """The server with the fewest sandboxes."""
        async with self._freed:
            most = self.settings.sandboxes_per_server
            await self._freed.wait_for(lambda: min(self._used.values()) < most)
            name = min(self._used, key=lambda name: self._used[name])
            self._used[name] += 1
        try:
            yield name
        finally:
            self._used[name] -= 1
            async with self._freed:
                self._freed.notify_all()  # one who is cancelled passes it on to nobody

    def _record(self, sandbox_id: str) -> str:
        return f"{self.settings.folder}/{sandbox_id}/sandbox.json"

    def _sandbox(self, sandbox_id: str) -> SwerexSandbox:
        server = self._servers[sandbox_id.partition(".")[0]]
        folder = f"{self.settings.folder}/{sandbox_id}"
        actions = ScriptedActions(server, f"{folder}/actions", output=self.settings.output)

        async def remove() -> None:
            await actions.sweep(sandbox_id)
            await self._shell(server, f"rm -rf '{folder}'")

        return SwerexSandbox(sandbox_id, server, actions, f"{folder}/work", remove)

    async def _create(self, sandbox: SwerexSandbox, labels: dict[str, str]) -> None:
        server = self._servers[sandbox.id.partition(".")[0]]
        try:
            await server.is_alive()
            # The record first: whatever happens from here on, it can be reaped.
            record = {"labels": labels, "expires": time.time() + self.settings.lifetime}
            await sandbox.write(self._record(sandbox.id), json.dumps(record))
            await self._shell(server, f"mkdir -p '{sandbox.workdir}'")
            assert isinstance(sandbox.actions, ScriptedActions)
            await sandbox.actions.install()
        except SandboxLost as error:
            raise SandboxError(f"cannot start a sandbox: {error}") from error

    async def _close(self, sandbox: SwerexSandbox) -> None:
        try:
            await sandbox.close()
        except SandboxError as error:
            # What is left there goes when its lifetime is over.
            log.warning("sandbox_not_removed", sandbox=sandbox.id, error=str(error))

    async def _shell(self, server: RexServer, command: str, *, lost: str = "") -> str:
        body = {"command": command, "shell": True, "timeout": GRACE}
        reply = await server.post("execute", body, patience=2 * GRACE)
        if reply.failure or reply.fields.get("exit_code") != 0:
            why = reply.message or reply.fields.get("stderr", "")
            if lost:
                raise SandboxLost(f"sandbox {lost} is gone")
            raise SandboxError(f"{command!r} failed on {server.url}: {why}")
        return str(reply.fields["stdout"])


def refuse_hosts(task: Task, who: str) -> None:
    """Raises: ``SandboxError`` for a task that names its hosts: ``who`` lets it reach others."""
    if task.allow_hosts:
        raise SandboxError(
            f"the task allows some hosts only (allow_hosts), which {who} cannot be held to:"
            " use bubblewrap, or containers"
        )


async def _is_over(record: dict[str, Any], gone: Gone | None) -> bool:
    labels: dict[str, str] = record["labels"]
    return bool(record["expires"] < time.time() or (gone is not None and await gone(labels)))
