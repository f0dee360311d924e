"""Sandboxes as containers of a Docker or Podman engine, here or elsewhere. Knows nothing of how the
engine is spoken to, and of what the agent does in them.

A container's first process only waits for the end of its lifetime and collects what others left;
commands are executed beside it by the engine, through the same script as on SWE-ReX servers, so an
image needs no more than a shell and the usual small programs (busybox has them all).

What holds the agent in:

- No network but its own loopback, unless ``network`` names one. No files of the host, no
  environment of ours, no capabilities, and none to be gained.
- An ordinary user, by default one whose number no other container here is likely to have: limits on
  a user's processes then hold for this container alone. The first process is root's (without
  capabilities), so the agent cannot end it.
- Memory, swap included, processes and CPU time by the engine's cgroups; disk by file systems in
  memory or by the engine's quota.
- The results of actions lie in the container, where the agent could write to them; but their names
  are made with a key that only the container's label has, so it cannot leave the result of an
  action that is still to come.

With ``user: root`` the agent can do more of that: fill the container with processes until nothing
can be executed in it (``SandboxLost``), and change any program that later actions use. The kernel
is shared in any case.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal, Self

import structlog
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from pilotfish import Task
from search.contracts import Gone
from search.errors import SandboxError, SandboxLost
from service.sandboxes.actions import SCRIPT, ScriptedActions, unusable
from service.sandboxes.container_way_out import ContainerWayOut, sandbox_of
from service.sandboxes.engine import Engine, Shell, check_host
from service.sandboxes.server import Reply
from service.sandboxes.swerex import SwerexSandbox
from service.sandboxes.way_out import VARIABLES, WayOutSettings

log = structlog.get_logger()

OURS = "pilotfish.sandbox"
"""The label that says whose sandbox it is; below it what else we have to know of one."""
HOSTS = f"{OURS}.hosts"
"""Of a sandbox that has a way out: whom it may speak to."""
BESIDE = f"{OURS}.beside"
"""Of what stands beside a sandbox: whose it is."""
FOLDER = "/pilotfish"
"""In the container: the script, and below it the results of actions."""
SPARE = 64
"""Processes that a container may have beyond the agent's: for executing and stopping those."""
USERS = range(10_000, 60_000)
"""Numbers for the agent's user: beyond the image's own, and within what a rootless engine maps."""
MAX_FILE = 32 * 2**20
"""Bytes of the longest file that is read."""
POLL = 1000
"""Hundredths of a second that a request waits for the end of a command."""
FIRST_PROCESS = (
    "end=$(($(date +%s) + $0))\n"
    "while left=$((end - $(date +%s))); [ $left -gt 0 ]; do sleep $left & wait $!; done"
)
INSTALL = f"""
umask 022
mkdir -p {FOLDER}/actions && chmod 1733 {FOLDER}/actions && head -c "$1" >"$2" || exit 1
mkdir -p "$3" || exit 1
# Older versions of runc give a file system in memory the mode of the folder that it hides.
shift 3
[ $# = 0 ] || chmod 1777 "$@"
"""
WRITE = r"""
file=$1
if [ -e "$file" ] && [ ! -f "$file" ]; then echo "$file: not a regular file" >&2; exit 1; fi
mkdir -p "${file%/*}/" && head -c "$2" >"$file"
"""
WRITE_SHORT = WRITE.replace('head -c "$2"', 'printf %s "$2" | cat')
READ = r"""
file=$1
if [ -e "$file" ] && [ ! -f "$file" ]; then echo "$file: not a regular file" >&2; exit 1; fi
head -c "$2" <"$file"
"""


class RegistryLogin(BaseModel):
    model_config = ConfigDict(extra="forbid")

    username: str
    password: SecretStr


class ContainerSettings(WayOutSettings):
    model_config = ConfigDict(extra="forbid")

    type: Literal["container"] = "container"
    host: str | None = None
    """The engine: ``unix:///run/podman/podman.sock``, ``tcp://HOST:2376``, ``https://HOST``. By
    default what ``DOCKER_HOST`` says, else Docker's own socket."""
    certificates: Path | None = None
    """A folder with ``ca.pem``, ``cert.pem`` and ``key.pem``, for an engine behind TLS. By default,
    where ``DOCKER_TLS_VERIFY`` is set, what ``DOCKER_CERT_PATH`` says."""
    away: float = Field(default=10.0, gt=0)
    """Seconds that an engine which does not answer is waited for."""
    owner: str = Field(default="pilotfish", pattern=r"^[\w.-]+$")
    """Whose the containers are, as a label. Services that share an engine and not a Redis each need
    their own, or they remove each other's containers."""

    images: list[str] = Field(default_factory=list)
    """Pulled when the service starts."""
    pull: Literal["never", "missing", "always"] = "missing"
    """When an image is pulled at a start."""
    pull_timeout: float = Field(default=1800.0, gt=0)
    """Seconds for one image."""
    image_names: dict[str, str] = Field(default_factory=dict)
    """Another image in place of the one that a task names."""
    registry: str = ""
    """Put before the names of images that name no registry, with a slash between:
    ``registry.example:5000/mirror``."""
    logins: dict[str, RegistryLogin] = Field(default_factory=dict)
    """By registry, as images name it (``docker.io`` for those that name none)."""

    network: str | None = None
    """A network of the engine that sandboxes join. By default they have none."""
    egress_image: str | None = None
    """An image with Python 3.11 or newer, for the proxy to the hosts of tasks that name theirs
    (``allow_hosts``). Without one such tasks are refused."""
    egress_network: str = "bridge"
    """The network of the engine that the proxy is on."""
    user: str | None = None
    """Who commands run as, as a number, a name of the image's or ``root``. By default a number of
    the sandbox's own."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Added to the image's."""
    read_only: bool = False
    """Whether only the working folder, ``/tmp``, ``/var/tmp`` and ``/dev/shm`` can be written."""
    binds: list[str] = Field(default_factory=list)
    """Host folders to show, as Docker writes it: ``/data:/data:ro``."""
    runtime: str | None = None
    """Another of the engine's runtimes: ``runsc`` (gVisor), ``kata``. Docker takes this; Podman's
    default is set in its own ``containers.conf``."""

    memory: int = Field(default=2 * 2**30, ge=2**26)
    """Bytes that a sandbox may take, files in memory included. A task's own goes first."""
    cpus: float = Field(default=1.0, gt=0)
    """Of the engine's CPUs."""
    processes: int = Field(default=256, ge=8)
    """Processes and threads of the agent at a time."""
    open_files: int = Field(default=4096, ge=64)
    """Of one process."""
    disk: int | None = Field(default=512 * 2**20, ge=2**20)
    """Bytes; ``None`` sets no bound."""
    disk_in: Literal["memory", "quota"] = "memory"
    """``memory`` makes working folder, ``/tmp`` and ``/var/tmp`` file systems in memory, each of
    ``disk`` bytes. ``quota`` bounds what the container writes by the engine's ``size`` option,
    which few have (overlay on XFS with project quotas, btrfs, zfs); it leaves what the image has in
    the working folder where it is."""
    files: int | None = Field(default=None, ge=100)
    """Files in each file system in memory. Docker takes this; Podman 4 refuses it."""
    output: int = Field(default=100_000, ge=1000)
    """Bytes of a command's output that are kept: half from its beginning, half from its end."""
    setup_timeout: float = Field(default=600.0, gt=0)
    """Seconds for each of a task's set-up commands."""
    start_timeout: float = Field(default=120.0, gt=0)
    """Seconds that the engine may take to make and start a container."""
    lifetime: float = Field(default=14_400.0, gt=0)
    """Seconds after which a sandbox ends, whatever it does."""

    @field_validator("host")
    @classmethod
    def _is_one(cls, host: str | None) -> str | None:
        return check_host(host) if host is not None else None


class ContainerServer:
    """Answers as a SWE-ReX server would, by what the engine does in one container."""

    def __init__(self, engine: Engine, name: str, user: str) -> None:
        self.engine = engine
        self.name = name
        self.user = user
        self._shells: list[Shell] = []

    async def close(self) -> None:
        """Let its shells go."""
        while self._shells:
            await self._shells.pop().close()

    async def is_alive(self, patience: float = 10.0) -> None:
        found = await self.engine.inspect(self.name)
        if found is None or not found["State"]["Running"]:
            raise SandboxLost(f"container {self.name} does not run")

    async def post(
        self, route: str, body: dict[str, Any], *, patience: float, request_id: str = ""
    ) -> Reply:
        match route:
            case "execute":
                return await self._command(body["command"], patience=patience)
            case "write_file":
                path, content = body["path"], body["content"]
                text = content.encode(errors="surrogatepass")
                if not unusable(content):
                    return await self._command(
                        ["sh", "-c", WRITE_SHORT, "sh", path, content], patience=patience
                    )
                return await self._command(
                    ["sh", "-c", WRITE, "sh", path, str(len(text))], stdin=text, patience=patience
                )
            case "read_file":
                return await self._read(body["path"], patience)
        raise SandboxError(f"containers do not answer {route}")

    async def _read(self, path: str, patience: float) -> Reply:
        command = ["sh", "-c", READ, "sh", path, str(MAX_FILE + 1)]
        reply = await self._command(command, patience=patience)
        text = reply.fields.get("stdout", "")
        if len(text) > MAX_FILE:
            return Reply({}, "too long", f"{path} is longer than {MAX_FILE:,} bytes")
        return reply._replace(fields={"content": text})

    async def _command(
        self, command: list[str], *, patience: float, stdin: bytes | None = None
    ) -> Reply:
        user = self.user
        if stdin is None:
            done = await self.engine.ask(
                self.name, self._shells, command, user=user, patience=patience
            )
        else:
            done = await self.engine.execute(
                self.name, command, user=user, stdin=stdin, patience=patience
            )
        stdout, stderr = (
            part.decode(errors="backslashreplace") for part in (done.stdout, done.stderr)
        )
        if done.exit_code:
            return Reply({}, f"exit code {done.exit_code}", (stderr or stdout)[-2000:].strip())
        return Reply({"stdout": stdout, "stderr": stderr, "exit_code": 0})


class ContainerProvider:
    """Starts containers, and finds those of other processes again. An async context manager: it
    holds the connections, and removes what it still has to before they are closed."""

    def __init__(self, settings: ContainerSettings | None = None) -> None:
        self.settings = settings or ContainerSettings()
        self.engine = Engine(
            self.settings.host, certificates=self.settings.certificates, away=self.settings.away
        )
        self._pulling: dict[str, asyncio.Task[None]] = {}
        self._removing: set[asyncio.Future[None]] = set()
        self._script = SCRIPT.read_bytes()

    async def __aenter__(self) -> Self:
        try:
            for image in dict.fromkeys(map(self.image, self.settings.images)):
                await self._ensure(image)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.shield(asyncio.ensure_future(self._close()))

    async def _close(self) -> None:
        pulls = list(self._pulling.values())
        for pull in pulls:
            pull.cancel()
        await asyncio.gather(*pulls, *self._removing, return_exceptions=True)
        await self.engine.__aexit__(None, None, None)

    @asynccontextmanager
    async def start(
        self, task: Task, *, labels: dict[str, str] | None = None
    ) -> AsyncIterator[SwerexSandbox]:
        _check_workdir(task.workdir)
        if task.allow_hosts:
            self._check_way_out()
        image = self.image(task.image)
        await self._ensure(image)
        if self.settings.egress_image and task.allow_hosts:
            await self._ensure(self.image(self.settings.egress_image))
        name = f"pilotfish-{uuid.uuid4().hex}"
        user = self.settings.user or str(random.choice(USERS))
        if user == "root" or user.isdecimal():
            # With its group, which an engine would look up in the image.
            user = "0:0" if user == "root" else f"{user}:{user}"
        key = secrets.token_bytes(16)
        body = self._body(task, image, user, key, labels or {})
        making = asyncio.ensure_future(self._make(name, body, user, task))
        way_out = self._way_out(name, body["Labels"])
        sandbox = self._sandbox(name, user, task.workdir, key, way_out)
        try:
            # Not cancelled with us: the engine would go on, and make what nobody removes.
            await asyncio.shield(making)
            await sandbox.prepare(task, timeout=self.settings.setup_timeout)
            yield sandbox
        finally:
            await self._end(sandbox, making)

    async def attach(self, sandbox_id: str) -> SwerexSandbox:
        found = None
        if re.fullmatch(r"pilotfish-[0-9a-f]{32}", sandbox_id):
            found = await self.engine.inspect(sandbox_id)
        labels = found["Config"]["Labels"] or {} if found else {}
        if found is None or not found["State"]["Running"] or OURS not in labels:
            raise SandboxLost(f"sandbox {sandbox_id} is gone")
        key = bytes.fromhex(labels[f"{OURS}.key"])
        user, workdir = labels[f"{OURS}.user"], labels[f"{OURS}.workdir"]
        return self._sandbox(sandbox_id, user, workdir, key, self._way_out(sandbox_id, labels))

    async def reap(self, gone: Gone | None = None) -> dict[str, Mapping[str, str]]:
        """As the contract says. An engine that cannot be reached is left for the next time."""
        removed: dict[str, Mapping[str, str]] = {}
        try:
            # First, for whoever starts meanwhile makes the sandbox before what stands beside it.
            beside = await self.engine.containers(f"{BESIDE}={self.settings.owner}")
            there = await self.engine.containers(f"{OURS}={self.settings.owner}")
        except SandboxError as error:
            log.warning("containers_not_reaped", engine=self.engine.url, error=str(error))
            return removed
        for found in there:
            name = found["Names"][0].lstrip("/")
            ended = found["State"] in ("exited", "dead", "stopped")
            if ended or await _is_over(found["Labels"], gone):
                try:
                    await self._remove(name, self._way_out(name, found["Labels"]))
                    removed[name] = own_labels(found["Labels"])
                except SandboxError as error:
                    log.warning("container_not_removed", sandbox=name, error=str(error))
        left = {sandbox_of(found["Names"][0].lstrip("/")) for found in beside}
        for name in left - {found["Names"][0].lstrip("/") for found in there}:
            try:
                await ContainerWayOut(self.engine, name).close()
            except SandboxError as error:
                log.warning("way_out_not_removed", sandbox=name, error=str(error))
        return removed

    # ---- images

    def image(self, named: str) -> str:
        """What the image that a task names is called at the engine."""
        image = self.settings.image_names.get(named, named)
        prefix = self.settings.registry.rstrip("/")
        return f"{prefix}/{image}" if prefix and not registry_of(image) else image

    async def _ensure(self, image: str) -> None:
        """Have it pulled, if that is to be; once, however many want it at the same time."""
        if self.settings.pull == "never":
            return
        pull = self._pulling.get(image)
        if pull is None:
            pull = self._pulling[image] = asyncio.ensure_future(self._pull(image))
            pull.add_done_callback(lambda done: self._pulled(image, done))
        await asyncio.shield(pull)

    def _pulled(self, image: str, done: asyncio.Future[None]) -> None:
        del self._pulling[image]
        if not done.cancelled() and (error := done.exception()):
            log.warning("image_not_pulled", image=image, error=str(error))

    async def _pull(self, image: str) -> None:
        if self.settings.pull == "missing" and await self.engine.has_image(image):
            return
        began = told = time.monotonic()
        log.info("image_pull_began", image=image)
        layers: dict[str, str] = {}
        try:
            async with asyncio.timeout(self.settings.pull_timeout):
                async for said in self.engine.pull(image, registry_auth=self._login(image)):
                    if layer := said.get("id"):
                        layers[layer] = str(said.get("status", ""))
                    if time.monotonic() - told > 10:
                        told = time.monotonic()
                        log.info("image_pull", image=image, layers=layers)
        except TimeoutError:
            limit = self.settings.pull_timeout
            raise SandboxError(f"image {image} was not pulled within {limit:g} s") from None
        if not await self.engine.has_image(image):
            raise SandboxError(f"image {image} cannot be pulled: the engine says no reason")
        log.info("image_pulled", image=image, seconds=round(time.monotonic() - began, 1))

    def _login(self, image: str) -> str:
        registry = registry_of(image) or "docker.io"
        login = self.settings.logins.get(registry)
        if login is None:
            return ""
        said = {
            "username": login.username,
            "password": login.password.get_secret_value(),
            "serveraddress": registry,
        }
        return base64.urlsafe_b64encode(json.dumps(said).encode()).decode()

    # ---- making and removing

    def _body(
        self, task: Task, image: str, user: str, key: bytes, labels: dict[str, str]
    ) -> dict[str, Any]:
        settings = self.settings
        memory = task.memory or settings.memory
        total = settings.processes + SPARE
        environment = {
            **({"HOME": "/tmp", "USER": "agent"} if settings.user is None else {}),
            # The working folder is root's where it lies in memory, which git would not have.
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "LANG": "C.UTF-8",
            **(VARIABLES if task.allow_hosts else {}),
            **settings.environment,
            "PILOTFISH_HELPER": "1",
            "PILOTFISH_PROCESSES": str(settings.processes),
        }
        limits = {"nofile": settings.open_files, "nproc": total, "core": 0}
        host: dict[str, Any] = {
            "NetworkMode": "none" if task.allow_hosts else settings.network or "none",
            "Memory": memory,
            "MemorySwap": memory,
            "NanoCpus": round(settings.cpus * 1e9),
            "PidsLimit": total,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Privileged": False,
            "ReadonlyRootfs": settings.read_only,
            "Binds": settings.binds,
            "Tmpfs": self._in_memory(task.workdir),
            "ShmSize": settings.disk or memory,
            "IpcMode": "private",
            "LogConfig": {"Type": "none"},
            "RestartPolicy": {"Name": "no"},
            "Ulimits": [{"Name": n, "Soft": most, "Hard": most} for n, most in limits.items()],
        }
        if settings.disk_in == "quota" and settings.disk is not None:
            host["StorageOpt"] = {"size": str(settings.disk)}
        if settings.runtime:
            host["Runtime"] = settings.runtime
        return {
            "Image": image,
            "Entrypoint": ["sh", "-c", FIRST_PROCESS],
            "Cmd": [str(max(1, round(settings.lifetime)))],
            "User": "0:0",
            "WorkingDir": "/",
            "Hostname": "sandbox",
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "Labels": {
                **{f"pilotfish.{name}": value for name, value in labels.items()},
                OURS: settings.owner,
                f"{OURS}.expires": str(round(time.time() + settings.lifetime)),
                f"{OURS}.user": user,
                f"{OURS}.workdir": task.workdir,
                f"{OURS}.key": key.hex(),
                f"{OURS}.task": task.id,
                **({HOSTS: " ".join(task.allow_hosts)} if task.allow_hosts else {}),
            },
            "HostConfig": host,
        }

    def _in_memory(self, workdir: str) -> dict[str, str]:
        settings = self.settings
        common = ["rw", "exec", "nosuid", "nodev"]
        if settings.disk is not None:
            common.append(f"size={settings.disk}")
        if settings.files is not None:
            common.append(f"nr_inodes={settings.files}")
        places = {FOLDER: "0755"}
        if settings.disk_in == "memory":
            places |= dict.fromkeys(("/tmp", "/var/tmp", workdir), "1777")
        elif settings.read_only:
            places |= dict.fromkeys(("/tmp", "/var/tmp"), "1777")
        return {place: ",".join([*common, f"mode={mode}"]) for place, mode in places.items()}

    async def _make(self, name: str, body: dict[str, Any], user: str, task: Task) -> None:
        image, workdir = body["Image"], task.workdir
        try:
            async with asyncio.timeout(self.settings.start_timeout):
                if not await self.engine.create(name, body):
                    raise SandboxError(
                        f"no image {image!r} at {self.engine.url}: pull or build it there, or let"
                        " it be pulled (`pull: missing`)"
                    )
                await self._check_runtime(name)
                if self.settings.disk_in == "memory" and await self.engine.has_files(name, workdir):
                    raise SandboxError(
                        f"the image has files in the working folder {workdir}, which one in memory"
                        " would hide: set `disk_in: quota`, with `disk: null` where the engine has"
                        " no quota"
                    )
                await self.engine.start(name)
                script = [str(len(self._script)), f"{FOLDER}/actions.sh"]
                writable = [place for place in body["HostConfig"]["Tmpfs"] if place != FOLDER]
                done = await self.engine.execute(
                    name,
                    ["sh", "-c", INSTALL, "sh", *script, workdir, *writable],
                    user="0:0",
                    stdin=self._script,
                )
                if done.exit_code:
                    raise SandboxError(done.stderr.decode(errors="replace").strip())
                await self._check_inside(name, user, workdir)
                if way_out := self._way_out(name, body["Labels"]):
                    await self._open(way_out, task, body["Labels"])
        except TimeoutError:
            limit = self.settings.start_timeout
            raise SandboxError(f"no container of {image} was up within {limit:g} s") from None
        except SandboxError as error:
            raise SandboxError(f"cannot start a container of {image}: {error}") from error

    def _check_way_out(self) -> None:
        """Raises: ``SandboxError`` where there can be none."""
        if self.settings.egress_image is None:
            raise SandboxError(
                "the task allows some hosts only (allow_hosts), which containers cannot be held to"
                " without a proxy: set `egress_image` to an image with Python 3.11 or newer, or use"
                " bubblewrap"
            )
        if self.settings.runtime not in (None, "runc", "crun"):
            raise SandboxError(
                "the task allows some hosts only (allow_hosts): their proxy shares the loopback of"
                f" the sandbox, which runtime {self.settings.runtime!r} keeps to itself"
            )

    def _way_out(self, name: str, labels: Mapping[str, str]) -> ContainerWayOut | None:
        return ContainerWayOut(self.engine, name) if HOSTS in labels else None

    async def _open(self, way_out: ContainerWayOut, task: Task, labels: Mapping[str, str]) -> None:
        settings = self.settings
        assert settings.egress_image is not None
        kept = {f"pilotfish.{name}": value for name, value in own_labels(labels).items()}
        await way_out.open(
            self.image(settings.egress_image),
            random.choice(USERS),
            settings.proxy(task.allow_hosts, None),
            network=settings.egress_network,
            labels={**kept, BESIDE: settings.owner},
            lifetime=settings.lifetime,
        )

    async def _check_runtime(self, name: str) -> None:
        """Podman 4 takes the name of a runtime, and uses its default one."""
        wanted = self.settings.runtime
        if wanted and (found := await self.engine.inspect(name)):
            used = found["HostConfig"].get("Runtime")
            if used != wanted:
                raise SandboxError(f"the engine uses runtime {used!r} and not {wanted!r}")

    async def _check_inside(self, name: str, user: str, workdir: str) -> None:
        """What would otherwise be found out by the first command, as a riddle."""
        needed = "for tool in setsid mkfifo tee head tail wc grep sed tr od sleep date; do"
        script = (
            f'{needed} command -v $tool >/dev/null || echo "no $tool in it"; done; test -w "$1"'
        )
        done = await self.engine.execute(name, ["sh", "-c", script, "sh", workdir], user=user)
        if lacking := done.stdout.decode(errors="replace").strip():
            raise SandboxError(", ".join(lacking.splitlines()))
        if done.exit_code:
            raise SandboxError(
                f"user {user} cannot write to its working folder {workdir}: set `user` to whom it"
                " belongs (`root`, say)"
            )

    def _sandbox(
        self, name: str, user: str, workdir: str, key: bytes, way_out: ContainerWayOut | None
    ) -> SwerexSandbox:
        server = ContainerServer(self.engine, name, user)
        actions = ScriptedActions(
            server, f"{FOLDER}/actions", output=self.settings.output, wait=POLL, key=key
        )
        actions.script = f"{FOLDER}/actions.sh"

        async def remove() -> None:
            await server.close()
            await self._remove(name, way_out)

        return SwerexSandbox(name, server, actions, workdir, remove, server.close)

    async def _remove(self, name: str, way_out: ContainerWayOut | None) -> None:
        try:
            if way_out is not None:
                await way_out.close()
        finally:
            await self.engine.remove(name)

    async def _end(self, sandbox: SwerexSandbox, making: asyncio.Future[None]) -> None:
        async def end() -> None:
            await asyncio.gather(making, return_exceptions=True)
            try:
                await sandbox.close()
            except SandboxError as error:
                # It ends by itself, and is reaped.
                log.warning("container_not_removed", sandbox=sandbox.id, error=str(error))

        await self._surely(end())

    async def _surely(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it to the end, even if whoever waits for it is cancelled."""
        removing = asyncio.ensure_future(work)
        self._removing.add(removing)
        removing.add_done_callback(self._removing.discard)
        await asyncio.shield(removing)


async def _is_over(labels: dict[str, str], gone: Gone | None) -> bool:
    expires = float(labels.get(f"{OURS}.expires", 0))
    return expires < time.time() or (gone is not None and await gone(own_labels(labels)))


def own_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Those that the sandbox was started with."""
    return {
        name.removeprefix("pilotfish."): value
        for name, value in labels.items()
        if name.startswith("pilotfish.") and name != OURS and not name.startswith(f"{OURS}.")
    }


def registry_of(image: str) -> str:
    """The registry that an image names, if it does.

    >>> registry_of("registry.example:5000/a/b"), registry_of("localhost/a"), registry_of("a/b:c")
    ('registry.example:5000', 'localhost', '')
    """
    first, slash, _ = image.partition("/")
    return first if slash and (first == "localhost" or "." in first or ":" in first) else ""


def _check_workdir(workdir: str) -> None:
    path = PurePosixPath(workdir)
    if not path.is_absolute() or ".." in path.parts or path == PurePosixPath("/"):
        raise SandboxError(f"the working folder must be an absolute path: {workdir!r}")
    if any(path.is_relative_to(place) for place in ("/proc", "/sys", "/dev", FOLDER)):
        raise SandboxError(f"the working folder {workdir!r} lies in a place of the system's")
