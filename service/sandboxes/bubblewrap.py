"""Sandboxes on this machine by bubblewrap, without a daemon or an image. Knows nothing of what the
agent does in them.

What is inside: this machine's ``/usr`` (with ``/bin``, ``/lib``...) and a few files of ``/etc``,
read-only; ``/tmp``, ``/dev/shm`` and the task's working folder, each in memory and of bounded size;
nothing else of the host's files: no home, no ``/root``, ``/var``, ``/run``, ``/opt``, not this
repository, no environment. Own process, network (only its own loopback), IPC, host-name and user
namespaces; an ordinary user without capabilities, who cannot gain any nor make further namespaces.

A task that names hosts (``allow_hosts``) has a proxy to these on its loopback, ``egress.py`` in a
process beside the sandbox; there is no other way out, and no names are resolved inside.

Limits, and what enforces them:

- Processes: ``RLIMIT_NPROC``. It does not hold for the host's root, and is shared by all processes
  of a host user on Linux before 5.14; so when this process is root, bubblewrap is started under a
  host user number of the sandbox's own. From 5.14 on it is counted in the sandbox's user namespace.
- Memory: ``RLIMIT_AS`` for one process, and for all of them together the guest server, which looks
  at what they use ten times a second and stops who takes it past the limit. No cgroup is needed.
- Disk: the sizes of the memory file systems; the number of files as memory above.
- Background processes that a command leaves behind: the guest server, the same way.
- Time: each command's own, and the sandbox's lifetime, at whose end it ends by itself.

By default a sandbox dies with the process that started it (more exactly, with the thread), whatever
kills that one. With ``outlive_parent`` it lives on, so that another process can attach to it.

It is a strong fence, not a virtual machine: the kernel is shared.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, TypeVar

import httpx
import structlog
from pydantic import ConfigDict, Field

from pilotfish import Task
from search.contracts import Gone
from search.errors import SandboxError, SandboxLost
from service.http_client import Client
from service.local.process import ProcessId, collect
from service.sandboxes.actions import GuestActions
from service.sandboxes.server import RexServer
from service.sandboxes.state import Record, StateFolder
from service.sandboxes.swerex import SwerexSandbox
from service.sandboxes.way_out import EGRESS, VARIABLES, WayOutSettings

T = TypeVar("T")
log = structlog.get_logger()

IMAGE = "host"
GUEST = Path(__file__).with_name("guest.py")
INSIDE = "/run/pilotfish"
PROJECT = Path(__file__).resolve().parents[2]
SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ETC = (
    "alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types",
    "os-release", "debian_version", "ssl/certs", "ca-certificates.conf", "pki/tls/certs",
    "terminfo", "inputrc", "bash.bashrc", "profile", "perl", "python3", "python3.11",
)  # fmt: skip
"""What of ``/etc`` programs need and anybody may read."""
FILES = {
    "/etc/passwd": "root:x:0:0::/:/bin/false\nagent:x:1000:1000::/tmp:/bin/sh\n",
    "/etc/group": "root:x:0:\nagent:x:1000:\n",
    "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
USER = 1000
FIRST_HOST_USER = 2_000_000_000
"""Beyond what distributions give to users and containers."""
HOST_USERS = 65_536
TAKEN = ("/usr", "/etc", "/proc", "/dev", "/run", *SYSTEM)


class BubblewrapSettings(WayOutSettings):
    model_config = ConfigDict(extra="forbid")

    type: Literal["bubblewrap"] = "bubblewrap"
    state_dir: Path | None = None
    """Where the live sandboxes are on record; by default a folder of this user's own."""
    output: int = Field(default=100_000, ge=1000)
    """Bytes of a command's output that are kept: half from its beginning, half from its end."""
    memory: int = Field(default=2**30, ge=2**26)
    """Bytes that a sandbox's processes may take together."""
    disk: int = Field(default=128 * 2**20, ge=2**20)
    """Bytes of the working folder, and again of ``/tmp`` and of ``/dev/shm``; all are memory."""
    files: int = Field(default=50_000, ge=100)
    """Files in each of these."""
    processes: int = Field(default=256, ge=8)
    """Processes and threads at a time."""
    background: int = Field(default=32, ge=0)
    """Processes that may live on after the commands that started them."""
    niceness: int = Field(default=5, ge=0, le=19)
    setup_timeout: float = Field(default=300.0, gt=0)
    """Seconds for each of a task's set-up commands."""
    start_timeout: float = Field(default=30.0, gt=0)
    """Seconds until a sandbox must answer."""
    lifetime: float = Field(default=14_400.0, gt=0)
    """Seconds after which a sandbox ends, whatever it does."""
    outlive_parent: bool = False
    """Whether a sandbox lives on when the process that started it is gone."""
    detached_grace: float = Field(default=3600.0, ge=0)
    """With ``outlive_parent``: seconds that a command goes on with nobody waiting for it, so that
    whoever takes over finds it running or done. Without, it is stopped at once."""
    python: Path | None = None
    """The interpreter inside; by default the system's, else the one that runs this."""
    binds: list[Path] = Field(default_factory=list)
    """Further host folders to show, read-only, at the same path."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Added to the commands' environment, which has nothing of ours."""


class BubblewrapProvider:
    """Starts sandboxes on this machine, and finds those of other processes again. As an async
    context manager it ends, on the way out, the sandboxes that were released but cannot outlive
    this process."""

    def __init__(self, settings: BubblewrapSettings | None = None) -> None:
        self.settings = settings or BubblewrapSettings()
        self.state = StateFolder(self.settings.state_dir or StateFolder.default())
        self._source = GUEST.read_bytes()
        self._started: dict[str, tuple[Record, subprocess.Popen[bytes]]] = {}
        self._proxies: dict[str, subprocess.Popen[bytes]] = {}
        """By sandbox, to be collected: they end with it by themselves."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.settings.outlive_parent:
            for record, outer in list(self._started.values()):
                await self._remove(record, outer)

    @asynccontextmanager
    async def start(
        self, task: Task, *, labels: dict[str, str] | None = None
    ) -> AsyncIterator[SwerexSandbox]:
        self._check(task)
        sandbox = await self._launch(task, labels or {})
        try:
            await sandbox.prepare(task, timeout=self.settings.setup_timeout)
            yield sandbox
        finally:
            await sandbox.close()

    async def attach(self, sandbox_id: str) -> SwerexSandbox:
        record = self.state.load(sandbox_id)
        if record is None or not record.process.alive:
            raise SandboxLost(f"sandbox {sandbox_id} is gone")
        sandbox = self._sandbox(record)
        try:
            await sandbox.server.is_alive(self.settings.start_timeout)
        except BaseException:
            await sandbox.release()
            raise
        return sandbox

    async def reap(self, gone: Gone | None = None) -> dict[str, Mapping[str, str]]:
        """As the contract says."""
        removed: dict[str, Mapping[str, str]] = {name: {} for name in self.state.left_over()}
        for sandbox_id in removed:
            self.state.remove(sandbox_id)
        for record in self.state.all():
            over = not record.process.alive or record.expires < time.time()
            if over or (gone is not None and await gone(record.labels)):
                await self._remove(record)
                removed[record.id] = record.labels
        for sandbox_id, (_, outer) in list(self._started.items()):
            if outer.poll() is not None:  # another process removed it
                del self._started[sandbox_id]
        return removed

    # ---- starting

    def _check(self, task: Task) -> None:
        if task.image != IMAGE:
            raise SandboxError(
                f"no image {task.image!r}: bubblewrap sandboxes have only {IMAGE!r}, this machine's"
                " own system"
            )
        path = PurePosixPath(task.workdir)
        taken = [*TAKEN, *(str(bind) for bind in self.settings.binds)]
        if not path.is_absolute() or ".." in path.parts or path == PurePosixPath("/"):
            raise SandboxError(f"the working folder must be an absolute path: {task.workdir!r}")
        if any(path.is_relative_to(name) for name in taken):
            raise SandboxError(f"the working folder {task.workdir!r} lies in a read-only place")

    async def _launch(self, task: Task, labels: dict[str, str]) -> SwerexSandbox:
        workdir = task.workdir
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise SandboxError("bubblewrap is not installed: apt-get install bubblewrap")
        sandbox_id = uuid.uuid4().hex
        expires = time.time() + self.settings.lifetime
        said = ""
        try:
            listener = self.state.listen(sandbox_id)
            outer, inner = await unhurried(
                self._spawn(bwrap, listener, task, sandbox_id), _end_unborn
            )
            record = Record(
                id=sandbox_id,
                pid=inner.pid,
                started=inner.started,
                workdir=workdir,
                labels=labels,
                expires=expires,
            )
            self._started[sandbox_id] = record, outer
            sandbox = self._sandbox(record, outer)
            try:
                self.state.save(record)
                await sandbox.server.is_alive(self.settings.start_timeout)
            except BaseException:
                said = self.state.said(sandbox_id)
                await sandbox.close()
                raise
        except (SandboxLost, ProcessLookupError, OSError) as error:
            said = said or self.state.said(sandbox_id)
            raise SandboxError(f"bubblewrap did not start a sandbox: {said or error}") from error
        finally:
            if self.state.load(sandbox_id) is None:
                self.state.remove(sandbox_id)
        return sandbox

    async def _spawn(
        self, bwrap: str, listener: socket.socket, task: Task, sandbox_id: str
    ) -> tuple[subprocess.Popen[bytes], ProcessId]:
        """Bubblewrap's own process, and the sandbox's first."""
        user = host_user() if os.getuid() == 0 else None
        with ExitStack() as held:
            held.enter_context(listener)
            info, tell = os.pipe2(os.O_CLOEXEC)
            reader = held.enter_context(os.fdopen(info, "rb"))
            inherited = Inherited(held)
            inherited.add(tell)
            inherited.fds.append(listener.fileno())
            way_out = self._proxy(inherited, sandbox_id, task) if task.allow_hosts else None
            arguments = [
                *("--info-fd", str(tell)),
                *self._namespaces(),
                *self._file_system(inherited, task.workdir),
                *self._guest(inherited, listener.fileno(), task, way_out),
            ]
            # Blocks for the few milliseconds of a fork; asyncio's own would do that too, and would
            # then spend a thread on waiting.
            outer = subprocess.Popen(  # noqa: ASYNC220
                [bwrap, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=held.enter_context(self.state.log(sandbox_id).open("ab")),
                cwd="/",
                env={},
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                pass_fds=inherited.fds,
                start_new_session=True,
            )
            inherited.close()
            listener.close()
            try:
                async with asyncio.timeout(self.settings.start_timeout):
                    told = await read_to_end(reader)
                return outer, ProcessId.of(int(json.loads(told or b"{}")["child-pid"]))
            except BaseException as error:
                outer.kill()
                outer.wait()
                if isinstance(error, KeyError | ValueError):
                    raise ProcessLookupError("it ended at once") from None
                if isinstance(error, TimeoutError):
                    message = f"it said nothing in {self.settings.start_timeout:g} s"
                    raise ProcessLookupError(message) from None
                raise

    def _proxy(self, inherited: Inherited, sandbox_id: str, task: Task) -> int:
        """Start the proxy to the task's hosts; the descriptor by which the sandbox finds it. With
        that one's last copy it ends, so it is started first."""
        self._proxies = {name: old for name, old in self._proxies.items() if old.poll() is None}
        user = host_user() if os.getuid() == 0 else None
        config = self.settings.proxy(task.allow_hosts, user)
        ours, theirs = socket.socketpair()
        with ours, self.state.log(sandbox_id).open("ab") as errors:
            fd = str(ours.fileno())
            words = ["-I", "-S", str(EGRESS), fd, json.dumps(config), sandbox_id]
            self._proxies[sandbox_id] = subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd="/",
                env={},
                pass_fds=[ours.fileno()],
                start_new_session=True,
            )
        return inherited.add(theirs.detach())

    def _namespaces(self) -> list[str]:
        return [
            "--unshare-all",
            "--unshare-user",
            "--disable-userns",
            *(["--die-with-parent"] if not self.settings.outlive_parent else []),
            "--new-session",
            "--as-pid-1",
            *("--uid", str(USER), "--gid", str(USER), "--hostname", "sandbox", "--clearenv"),
        ]

    def _file_system(self, inherited: Inherited, workdir: str) -> list[str]:
        size = str(self.settings.disk)
        prefix = self._python()[1]
        further = [*map(str, self.settings.binds), *([prefix] if prefix else [])]
        arguments = []
        for path in ("/etc", "/run", "/var"):
            arguments += ["--perms", "0755", "--dir", path]
        arguments += ["--ro-bind", "/usr", "/usr"]
        for path in SYSTEM:
            if os.path.islink(path):
                arguments += ["--symlink", os.readlink(path), path]
            elif os.path.isdir(path):
                arguments += ["--ro-bind", path, path]
        for name in ETC:
            arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
        for path, text in FILES.items():
            fd = inherited.add(open_memory(text.encode()))
            arguments += ["--perms", "0444", "--ro-bind-data", str(fd), path]
        arguments += [
            *("--proc", "/proc", "--dev", "/dev"),
            *("--size", size, "--perms", "1777", "--tmpfs", "/dev/shm", "--remount-ro", "/dev"),
            *("--size", size, "--perms", "1777", "--tmpfs", "/tmp"),
            *("--symlink", "/tmp", "/var/tmp"),
        ]
        for path in further:
            arguments += ["--ro-bind", path, path]
        if any(PROJECT.is_relative_to(path) for path in ("/usr", *further)):
            arguments += ["--size", "4096", "--tmpfs", str(PROJECT), "--remount-ro", str(PROJECT)]
        return [*arguments, "--size", size, "--tmpfs", workdir]

    def _guest(
        self, inherited: Inherited, listener: int, task: Task, way_out: int | None
    ) -> list[str]:
        settings, workdir = self.settings, task.workdir
        memory = task.memory or settings.memory
        python, prefix = self._python()
        path = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
        config = {
            "socket": listener,
            "workdir": workdir,
            "writable": [workdir, "/tmp", "/dev/shm"],
            "output": settings.output,
            "lifetime": settings.lifetime,
            "grace": settings.detached_grace if settings.outlive_parent else 0,
            "memory": memory,
            "files": settings.files,
            "background": settings.background,
            "nice": settings.niceness,
            "limits": {
                "AS": memory,
                "NPROC": settings.processes,
                "FSIZE": settings.disk,
                "NOFILE": 1024,
                "CORE": 0,
            },
            "env": {
                "PATH": f"{prefix}/bin:{path}" if prefix else path,
                "HOME": "/tmp",
                "USER": "agent",
                "LANG": "C.UTF-8",
                **({} if way_out is None else VARIABLES),
                **settings.environment,
            },
            **({} if way_out is None else {"egress": way_out}),
        }
        source = inherited.add(open_memory(self._source))
        setup = inherited.add(open_memory(json.dumps(config).encode()))
        return [
            *("--perms", "0444", "--ro-bind-data", str(source), f"{INSIDE}/guest.py"),
            *("--perms", "0444", "--ro-bind-data", str(setup), f"{INSIDE}/guest.json"),
            *("--remount-ro", "/", "--chdir", "/", "--"),
            *(python, "-I", "-S", "-E", "-X", "utf8", f"{INSIDE}/guest.py", f"{INSIDE}/guest.json"),
        ]

    def _python(self) -> tuple[str, str]:
        """The interpreter inside, and the folder that has to be shown for it, if any."""
        usual = [Path("/usr/bin/python3"), Path("/usr/local/bin/python3")]
        chosen = [self.settings.python] if self.settings.python else usual
        for python in [*chosen, Path(sys.base_prefix, "bin", "python3")]:
            if python.exists():
                real = python.resolve()
                prefix = real.parent.parent
                if prefix in (Path("/usr"), Path("/usr/local")):
                    return str(real), ""
                if os.getuid() == 0 and not all(f.stat().st_mode & 0o001 for f in real.parents):
                    # Bubblewrap runs as another user, who may not walk there.
                    raise SandboxError(
                        f"sandboxes cannot use {real}, which only root can reach: install one for"
                        " all (apt-get install python3), or set `python`"
                    )
                return str(real), str(prefix)
        raise SandboxError(f"there is no interpreter {chosen[0]}")

    # ---- the sandbox's handle

    def _sandbox(
        self, record: Record, outer: subprocess.Popen[bytes] | None = None
    ) -> SwerexSandbox:
        held = ExitStack()
        path = held.enter_context(self.state.address(record.id))
        # No connection is kept: opening one costs nothing here, and none is left behind by who
        # attaches and goes away.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        transport = httpx.AsyncHTTPTransport(uds=path, verify=False, limits=limits)
        client = Client(transport=transport, trust_env=False)
        server = RexServer(client, "http://sandbox")

        async def let_go() -> None:
            await client.aclose()
            held.close()

        async def remove() -> None:
            await let_go()
            await self._remove(record, outer)

        actions = GuestActions(server)
        return SwerexSandbox(record.id, server, actions, record.workdir, remove, let_go)

    async def _remove(self, record: Record, outer: subprocess.Popen[bytes] | None = None) -> None:
        if outer is None and record.id in self._started:
            outer = self._started[record.id][1]
        # The end of its first process is the end of all in its process namespace.
        record.process.kill()
        if not await record.process.gone(10.0):
            log.error("sandbox_not_killed", sandbox=record.id, pid=record.pid)
            return
        if outer is not None:
            await collect(outer, 10.0)
        if (proxy := self._proxies.pop(record.id, None)) is not None:
            await collect(proxy, 10.0)
        self._started.pop(record.id, None)
        if said := self.state.said(record.id):
            log.error("sandbox_server_failed", sandbox=record.id, said=said)
        self.state.remove(record.id)


async def unhurried(making: Coroutine[Any, Any, T], unmake: Callable[[T], Awaitable[None]]) -> T:
    """What ``making`` makes. Where the caller is cancelled it is waited for and unmade, so that
    nothing half made is left that nobody knows of."""
    task = asyncio.ensure_future(making)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(Exception):
            await unmake(await task)
        raise


async def _end_unborn(made: tuple[subprocess.Popen[bytes], ProcessId]) -> None:
    outer, inner = made
    inner.kill()
    await collect(outer, 10.0)


class Inherited:
    """Descriptors that a child takes over; ours are closed once it runs, or at the latest with the
    stack."""

    def __init__(self, held: ExitStack) -> None:
        self.fds: list[int] = []
        self._own: list[int] = []
        held.callback(self.close)

    def add(self, fd: int) -> int:
        self.fds.append(fd)
        self._own.append(fd)
        return fd

    def close(self) -> None:
        while self._own:
            os.close(self._own.pop())


def open_memory(content: bytes) -> int:
    """A descriptor of a file in memory, at its beginning."""
    fd = os.memfd_create("pilotfish", os.MFD_CLOEXEC)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


async def read_to_end(pipe: BinaryIO) -> bytes:
    """All that comes out of ``pipe``, whose descriptor stays the caller's. Not by asyncio's pipe
    transport: uvloop's closes the descriptor a second time, when its number may already be that of
    somebody else's folder or socket."""
    loop, descriptor = asyncio.get_running_loop(), pipe.fileno()
    os.set_blocking(descriptor, False)
    parts: list[bytes] = []
    while True:
        readable = loop.create_future()
        loop.add_reader(descriptor, _wake, readable)
        try:
            await readable
        finally:
            loop.remove_reader(descriptor)
        with suppress(BlockingIOError):
            part = os.read(descriptor, 65_536)
            if not part:
                return b"".join(parts)
            parts.append(part)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def host_user() -> int:
    """A host user number for one more sandbox, when we are root. Two that draw the same one lose
    nothing but, on old kernels, that their process limits are counted together."""
    wanted = FIRST_HOST_USER + random.randrange(HOST_USERS)
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = (int(number) for number in line.split())
        if first <= wanted < first + count:
            return wanted
    return 65_534
