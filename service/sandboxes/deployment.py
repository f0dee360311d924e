"""Sandboxes that are deployments with a SWE-ReX server, one each: a container, a sandbox of Modal's
or Daytona's, a task of Fargate's. Knows nothing of what isolates each of those, which is the choice
of whoever makes it, and its settings'.

The swe-rex library (or for Daytona we) makes the deployment and starts the server in it; from there
on no client of the library's is used, we speak to the server ourselves (``server.py``). Starts are
done in threads of ours, because they block for as long as they take.

An id says ``KIND.MARK.HANDLE``: the kind, a random mark, and what the kind calls the deployment.
The server's token is made of the mark and the setting ``secret``, so whoever has the settings can
attach, and who reads ids in a journal cannot. The agent can read it, because the library puts it
into the command line of the server: it can speak to its own sandbox then, and to no other.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
import shlex
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import structlog
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from pilotfish import Task
from search.contracts import Gone
from search.errors import SandboxError, SandboxLost
from service.http_client import Client
from service.sandboxes.actions import GRACE, ScriptedActions
from service.sandboxes.deployments import KINDS, Place, Plan, Starting
from service.sandboxes.server import RexServer
from service.sandboxes.swerex import SwerexSandbox, refuse_hosts

log = structlog.get_logger()
T = TypeVar("T")


class DeploymentSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["deployment"] = "deployment"
    kind: Literal["docker", "modal", "fargate", "daytona"]
    """``docker`` is Podman too: ``options: {container_runtime: podman}``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Fields of the library's own configuration for that kind: ``docker_args``,
    ``modal_sandbox_kwargs``, ``cluster_name``, ...; for Daytona those of ``DaytonaOptions``."""
    secret: SecretStr | None = Field(default=None)
    """What the servers' tokens are made of. Without one, no other process can attach."""
    owner: str = Field(default="pilotfish", pattern=r"^[\w.-]+$")
    """Whose the deployments are, as a label. Services that share an engine or account and not a
    Redis each need their own, or they remove each other's."""
    image_names: dict[str, str] = Field(default_factory=dict)
    """Another image in place of the one that a task names."""
    folder: str = "/tmp/pilotfish"
    """In the deployment: the script, and the results of actions."""
    output: int = Field(default=100_000, ge=1000)
    """Bytes of a command's output that are kept: half from its beginning, half from its end."""
    setup_timeout: float = Field(default=600.0, gt=0)
    """Seconds for each of a task's set-up commands."""
    start_timeout: float = Field(default=600.0, gt=0)
    """Seconds until the server must answer. Where the image has no swe-rex, the library installs it
    meanwhile."""
    starts: int = Field(default=16, ge=1)
    """Deployments that are started or stopped at the same time."""
    lifetime: float = Field(default=14_400.0, gt=0)
    """Seconds after which a sandbox ends, or ``reap`` removes it, whatever it does."""
    attempts: int = Field(default=5, ge=1)
    """How often a request is tried while the server cannot be reached."""


class DeploymentProvider:
    """Starts deployments, and finds those of other processes again. An async context manager: it
    holds connections and threads, and ends what it still has to before they are closed.

    Raises: ``SandboxError`` where the library, or what it needs for that kind, is not installed."""

    def __init__(self, settings: DeploymentSettings) -> None:
        self.settings = settings
        self._kind = KINDS[settings.kind](settings.options, settings.owner)
        self._secret = (
            settings.secret.get_secret_value().encode()
            if settings.secret
            else secrets.token_bytes(32)
        )
        self._client = Client(trust_env=False)
        self._threads = ThreadPoolExecutor(settings.starts, thread_name_prefix="deployment")
        self._removing: set[asyncio.Future[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.shield(asyncio.ensure_future(self._close()))

    async def _close(self) -> None:
        await asyncio.gather(*self._removing, return_exceptions=True)
        await self._client.aclose()
        self._threads.shutdown(wait=False)

    @asynccontextmanager
    async def start(
        self, task: Task, *, labels: dict[str, str] | None = None
    ) -> AsyncIterator[SwerexSandbox]:
        refuse_hosts(task, "deployments")
        mark = uuid.uuid4().hex
        plan = Plan(
            mark=mark,
            token=self._token(mark),
            image=self.settings.image_names.get(task.image, task.image),
            memory=task.memory,
            labels=labels or {},
            start_timeout=self.settings.start_timeout,
            lifetime=self.settings.lifetime,
        )
        given_up = threading.Event()
        making = asyncio.ensure_future(self._make(plan, given_up))
        sandbox = None
        try:
            # Not cancelled with us: a thread cannot be, and would start what nobody ends.
            handle, place = await asyncio.shield(making)
            sandbox = self._sandbox(mark, handle, place, task.workdir)
            await self._install(sandbox)
            await sandbox.prepare(task, timeout=self.settings.setup_timeout)
            yield sandbox
        finally:
            given_up.set()
            await self._surely(self._end(mark, task.workdir, sandbox, making))

    async def attach(self, sandbox_id: str) -> SwerexSandbox:
        found = re.fullmatch(r"([a-z]+)\.([0-9a-f]{32})\.([\w-]+)", sandbox_id, re.ASCII)
        if found is None or found[1] != self.settings.kind:
            raise SandboxLost(f"sandbox {sandbox_id} is none of these deployments")
        _, mark, handle = found.groups()
        sandbox = self._sandbox(mark, handle, await self._blocking(self._kind.place, handle), "")
        try:
            await sandbox.server.is_alive()
            # The server's machine is the task's, so what it says of the folder is good enough.
            sandbox.workdir = (await sandbox.read(self._record)).strip()
        except SandboxError as error:
            why = (
                "" if self.settings.secret else "; without `secret` only who started it can attach"
            )
            raise SandboxLost(f"sandbox {sandbox_id} cannot be had back: {error}{why}") from error
        return sandbox

    async def reap(self, gone: Gone | None = None) -> dict[str, Mapping[str, str]]:
        """As the contract says; kinds that cannot list end by their lifetime alone."""
        removed: dict[str, Mapping[str, str]] = {}
        try:
            there = await self._blocking(self._kind.listed)
        except SandboxError as error:
            log.warning("deployments_not_reaped", kind=self.settings.kind, error=str(error))
            return removed
        for found in there:
            over = found.ended or found.expires < time.time()
            if over or (gone is not None and await gone(found.labels)):
                sandbox_id = self._id(found.mark, found.handle)
                try:
                    await self._blocking(self._kind.stop, found.handle)
                    removed[sandbox_id] = found.labels
                except SandboxError as error:
                    log.warning("deployment_not_removed", sandbox=sandbox_id, error=str(error))
        return removed

    # ---- one sandbox

    @property
    def _record(self) -> str:
        return f"{self.settings.folder}/workdir"

    def _id(self, mark: str, handle: str) -> str:
        return f"{self.settings.kind}.{mark}.{handle}"

    def _token(self, mark: str) -> str:
        return hmac.digest(self._secret, mark.encode(), "sha256").hex()

    def _sandbox(self, mark: str, handle: str, place: Place, workdir: str) -> SwerexSandbox:
        server = RexServer(
            self._client,
            place.url,
            token=self._token(mark),
            headers=place.headers,
            attempts=self.settings.attempts,
        )
        folder = f"{self.settings.folder}/{mark}/actions"
        actions = ScriptedActions(server, folder, output=self.settings.output)

        async def remove() -> None:
            await self._blocking(self._kind.stop, handle)

        return SwerexSandbox(self._id(mark, handle), server, actions, workdir, remove)

    async def _make(self, plan: Plan, given_up: threading.Event) -> tuple[str, Place]:
        try:
            return await self._blocking(self._kind.start, plan, Starting(given_up))
        except SandboxError as error:
            raise SandboxError(f"cannot start a deployment of {plan.image}: {error}") from error

    async def _install(self, sandbox: SwerexSandbox) -> None:
        assert isinstance(sandbox.actions, ScriptedActions)
        await sandbox.write(self._record, sandbox.workdir)
        await sandbox.actions.install()
        command = f"mkdir -p {shlex.quote(sandbox.workdir)}"
        body = {"command": command, "shell": True, "timeout": GRACE}
        reply = await sandbox.server.post("execute", body, patience=2 * GRACE)
        if reply.failure or reply.fields.get("exit_code") != 0:
            why = reply.message or reply.fields.get("stderr", "")
            raise SandboxError(f"cannot make the working folder {sandbox.workdir}: {why}")

    async def _end(
        self,
        mark: str,
        workdir: str,
        sandbox: SwerexSandbox | None,
        making: asyncio.Future[tuple[str, Place]],
    ) -> None:
        [made] = await asyncio.gather(making, return_exceptions=True)
        if isinstance(made, BaseException):
            return  # whoever could not start it has left nothing
        try:
            await (sandbox or self._sandbox(mark, *made, workdir)).close()
        except SandboxError as error:
            # Its lifetime ends it.
            log.warning("deployment_not_removed", sandbox=self._id(mark, made[0]), error=str(error))

    async def _surely(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it to the end, even if whoever waits for it is cancelled."""
        removing = asyncio.ensure_future(work)
        self._removing.add(removing)
        removing.add_done_callback(self._removing.discard)
        await asyncio.shield(removing)

    async def _blocking(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)
