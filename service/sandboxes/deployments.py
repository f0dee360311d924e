"""How each kind of deployment is started, found again and ended. Knows nothing of tasks and
actions. Everything here blocks, and is called in threads.

Of the swe-rex library (1.4) its starting is used, and not more; for Daytona not even that, because
it takes the object with the address of a server for the address.

- Its waiting for the server is replaced. For Docker it waits for the output of a container that
  still runs once the time is over, that is for ever; and it cannot be told to give up.
- Docker's client is read from: the library leaves its pipes, and a server that cannot print stands
  still.
- Its ``stop`` is not called. Modal's ends only what has ended before; and to stop what another
  process started, the handle has to be enough anyway.
- Its objects stop the deployment when they are collected, which would end a released sandbox. Ours
  don't.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import math
import os
import shlex
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, NamedTuple, Protocol

import httpx
import stamina
from pydantic import BaseModel, ConfigDict, Field

from search.errors import SandboxError, SandboxLost
from service.http_client import Client

OURS = "pilotfish.deployment"
"""The label that says whose deployment it is; below it what else we have to know of one."""
PATIENCE = 60.0
"""Seconds for one call of an engine's command line, or of a cloud's API."""
SERVE = """
command -v swerex-remote >/dev/null && exec swerex-remote "$@"
export PIP_BREAK_SYSTEM_PACKAGES=1
python3 -m pip install --quiet 'swe-rex==1.4.*' aiohttp && exec python3 -m swerex.server "$@"
"""


@dataclass(frozen=True)
class Plan:
    """A deployment that is to be."""

    mark: str
    token: str
    image: str
    memory: int | None
    labels: Mapping[str, str]
    start_timeout: float
    lifetime: float

    def all_labels(self, owner: str) -> dict[str, str]:
        """Those of the sandbox, and what we have to know of a deployment to find it again."""
        return {
            **{f"pilotfish.{name}": value for name, value in self.labels.items()},
            OURS: owner,
            f"{OURS}.mark": self.mark,
            f"{OURS}.expires": str(time.time() + self.lifetime),
        }


@dataclass(frozen=True)
class Listed:
    """A deployment that is there."""

    mark: str
    handle: str
    labels: Mapping[str, str]
    expires: float
    ended: bool


class Place(NamedTuple):
    """Where a server is reached."""

    url: str
    headers: Mapping[str, str] = {}
    """What a request needs to get there."""


class Starting:
    """One start that is under way."""

    def __init__(self, given_up: threading.Event) -> None:
        self.given_up = given_up

    async def until_alive(
        self, place: Place, plan: Plan, ended: Callable[[], str], *, pause: float = 0.1
    ) -> None:
        """Raises: ``SandboxError``: ``ended`` says why, time is over, or nobody waits any more."""
        end = time.monotonic() + plan.start_timeout
        said = "nothing"
        headers = {**place.headers, "X-API-Key": plan.token}
        async with Client(trust_env=False, headers=headers) as client:
            while True:
                if self.given_up.is_set():
                    raise SandboxError("the start was given up")
                if reason := await asyncio.to_thread(ended):
                    raise SandboxError(reason)
                try:
                    reply = await client.get(f"{place.url}/is_alive", timeout=5.0)
                    if reply.status_code == 200:
                        return
                    said = f"{reply.status_code} {reply.text[:200]}"
                except httpx.TransportError as error:
                    said = str(error) or type(error).__name__
                if time.monotonic() > end:
                    raise SandboxError(f"no server within {plan.start_timeout:g} s; last: {said}")
                await asyncio.sleep(pause)


class Kind(Protocol):
    def __init__(self, options: Mapping[str, Any], owner: str) -> None: ...

    def start(self, plan: Plan, starting: Starting) -> tuple[str, Place]:
        """The handle and place of one whose server answers. One that does not start leaves nothing.
        Raises: ``SandboxError``."""
        ...

    def place(self, handle: str) -> Place:
        """Raises: ``SandboxLost`` if it does not run."""
        ...

    def stop(self, handle: str) -> None:
        """One that is not there is no error. Raises: ``SandboxError``."""
        ...

    def listed(self) -> list[Listed]:
        """Raises: ``SandboxError``."""
        ...


def library(kind: str, extra: str = "") -> Any:
    """The library's module of that kind."""
    # It would print every request.
    os.environ.setdefault("SWE_REX_LOG_STREAM_LEVEL", "ERROR")
    return _module(f"swerex.deployment.{kind}", kind, extra or "deployments")


def _module(name: str, kind: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SandboxError(
            f"deployments of kind {kind!r} need what is not installed ({error}):"
            f" pip install 'pilotfish-service[{extra}]'"
        ) from error


@contextlib.contextmanager
def _boundary() -> Iterator[None]:
    """Whatever the library or a cloud's package raises is a failure of the sandbox's."""
    try:
        yield
    except SandboxError:
        raise
    except Exception as error:
        said = getattr(error, "body", None) or error  # an answer, without its headers
        raise SandboxError(f"{type(error).__name__}: {str(said)[-2000:]}") from error


def _deployment_class(base: Any, plan: Plan, wait: Callable[[Any], Any]) -> Any:
    """The library's class, with a token and a waiting of ours."""
    for name in ("_get_token", "_wait_until_alive", "from_config"):
        if not hasattr(base, name):
            raise SandboxError(
                f"this version of swe-rex is not known: {base.__name__} has no {name}"
            )

    async def until_alive(self: Any, timeout: float = 0.0) -> None:
        await wait(self)

    ours = {
        "_get_token": lambda self: plan.token,
        "_get_container_name": lambda self: f"pilotfish-{plan.mark}",
        "_wait_until_alive": until_alive,
        "__del__": lambda self: None,
    }
    return type("Deployment", (base,), ours)


class Docker:
    """Containers of the Docker or Podman whose command line is here."""

    def __init__(self, options: Mapping[str, Any], owner: str) -> None:
        self._library = library("docker")
        self.options, self.owner = dict(options), owner
        with _boundary():
            self._program: str = self._library.DockerDeploymentConfig(**options).container_runtime

    def start(self, plan: Plan, starting: Starting) -> tuple[str, Place]:
        labels = plan.all_labels(self.owner)
        arguments = [f"--label={name}={value}" for name, value in labels.items()]
        if plan.memory is not None:
            arguments.append(f"--memory={plan.memory}")
        options = self.options | {
            "image": plan.image,
            # Signals to us are none to the container, which may be released.
            "docker_args": ["--sig-proxy=false", *arguments, *self.options.get("docker_args", [])],
        }

        async def wait(deployment: Any) -> None:
            output = _Output(deployment._container_process)
            place = Place(deployment.runtime._api_url)
            await starting.until_alive(place, plan, output.ended)

        name = f"pilotfish-{plan.mark}"
        deployment = None
        try:
            with _boundary():
                deployed = _deployment_class(self._library.DockerDeployment, plan, wait)
                config = self._library.DockerDeploymentConfig(**options)
                deployment = deployed(logger=logging.getLogger(__name__), **config.model_dump())
                asyncio.run(deployment.start())
                return name, Place(deployment.runtime._api_url)
        except BaseException:
            client = getattr(deployment, "_container_process", None)
            if client is not None:
                client.kill()
                client.wait()
                self.stop(name)
            raise

    def place(self, handle: str) -> Place:
        done = self._run("inspect", "--type=container", handle)
        found = json.loads(done.stdout or "[]") if done.returncode == 0 else []
        if not found or not found[0]["State"]["Running"]:
            raise SandboxLost(f"container {handle} does not run")
        if OURS not in (found[0]["Config"]["Labels"] or {}):
            raise SandboxLost(f"container {handle} is none of ours")
        ports = found[0]["NetworkSettings"]["Ports"]["8000/tcp"]
        return Place(f"http://127.0.0.1:{ports[0]['HostPort']}")

    def stop(self, handle: str) -> None:
        self._run("kill", handle)  # Podman's rm would ask it to end first, and wait
        done = self._run("rm", "--force", "--volumes", handle)
        if done.returncode and not _nothing_there(done.stderr):
            raise SandboxError(f"{self._program} rm {handle}: {done.stderr.strip()}")

    def listed(self) -> list[Listed]:
        names = self._run(
            "ps", "--all", f"--filter=label={OURS}={self.owner}", "--format={{.Names}}"
        )
        if names.returncode:
            raise SandboxError(f"{self._program} ps: {names.stderr.strip()}")
        return [found for name in names.stdout.split() if (found := self._listed(name))]

    def _listed(self, name: str) -> Listed | None:
        done = self._run("inspect", "--type=container", name)
        if done.returncode:
            return None  # removed since
        found = json.loads(done.stdout)[0]
        labels = found["Config"]["Labels"]
        return Listed(
            mark=labels[f"{OURS}.mark"],
            handle=name,
            labels=_own(labels),
            expires=float(labels[f"{OURS}.expires"]),
            ended=found["State"]["Status"] in ("exited", "dead", "stopped"),
        )

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [self._program, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PATIENCE,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SandboxError(f"{self._program}: {error}") from error


class Modal:
    """Sandboxes of Modal's, in the app that the library makes (``swe-rex``)."""

    PORT = 8880

    def __init__(self, options: Mapping[str, Any], owner: str) -> None:
        self._library = library("modal", "modal")
        self._modal = importlib.import_module("modal")
        self.options, self.owner = dict(options), owner
        with _boundary():
            self._library.ModalDeploymentConfig(**options)

    def start(self, plan: Plan, starting: Starting) -> tuple[str, Place]:
        kwargs = dict(self.options.get("modal_sandbox_kwargs", {}))
        kwargs["tags"] = {**kwargs.get("tags", {}), **plan.all_labels(self.owner)}
        if plan.memory is not None:
            mebibytes = max(1, plan.memory // 2**20)
            kwargs["memory"] = (mebibytes, mebibytes)
        options = {
            "startup_timeout": plan.start_timeout,
            "deployment_timeout": plan.lifetime,
            **self.options,
            "image": plan.image,
            "modal_sandbox_kwargs": kwargs,
        }

        async def wait(deployment: Any) -> None:
            sandbox = deployment.sandbox

            def ended() -> str:
                code = sandbox.poll()
                return (
                    "" if code is None else f"it ended with {code}: {sandbox.stderr.read()[-2000:]}"
                )

            await starting.until_alive(Place(deployment.runtime._api_url), plan, ended)

        deployment = None
        try:
            with _boundary():
                config = self._library.ModalDeploymentConfig(**options)
                deployed = _deployment_class(self._library.ModalDeployment, plan, wait)
                deployment = deployed.from_config(config)
                asyncio.run(deployment.start())
                return deployment.sandbox.object_id, Place(deployment.runtime._api_url)
        except BaseException:
            if (sandbox := getattr(deployment, "_sandbox", None)) is not None:
                self.stop(sandbox.object_id)
            raise

    def place(self, handle: str) -> Place:
        sandbox = self._found(handle)
        if sandbox is None:
            raise SandboxLost(f"Modal has no sandbox {handle} that runs")
        with _boundary():
            return Place(str(sandbox.tunnels()[self.PORT].url))

    def stop(self, handle: str) -> None:
        sandbox = self._found(handle)
        if sandbox is not None:
            with _boundary():
                sandbox.terminate()

    def listed(self) -> list[Listed]:
        with _boundary():
            app = self._modal.App.lookup("swe-rex", create_if_missing=True)
            found = []
            for sandbox in self._modal.Sandbox.list(app_id=app.app_id, tags={OURS: self.owner}):
                tags = sandbox.get_tags()
                found.append(
                    Listed(
                        mark=tags[f"{OURS}.mark"],
                        handle=sandbox.object_id,
                        labels=_own(tags),
                        expires=float(tags[f"{OURS}.expires"]),
                        ended=False,  # of those nothing is listed
                    )
                )
            return found

    def _found(self, handle: str) -> Any:
        with _boundary():
            try:
                sandbox = self._modal.Sandbox.from_id(handle)
                return sandbox if sandbox.poll() is None else None
            except self._modal.exception.NotFoundError:
                return None


class Fargate:
    """Tasks of AWS Fargate. The library lets us put no labels on them: they cannot be listed, and
    end by their lifetime where a killed service left them."""

    def __init__(self, options: Mapping[str, Any], owner: str) -> None:
        self._library = library("fargate", "fargate")
        self._boto3 = importlib.import_module("boto3")
        self.options = dict(options)
        with _boundary():
            config = self._library.FargateDeploymentConfig(**options)
        self._cluster: str = config.cluster_name
        self._port: int = config.port

    def start(self, plan: Plan, starting: Starting) -> tuple[str, Place]:
        options = {"container_timeout": plan.lifetime, **self.options, "image": plan.image}
        if plan.memory is not None:
            memory = str(-(-plan.memory // 2**20))
            options["fargate_args"] = {**self.options.get("fargate_args", {}), "memory": memory}

        async def wait(deployment: Any) -> None:
            handle = _last_part(deployment._task_arn)

            def ended() -> str:
                status = self._status(handle)
                return "" if status == "RUNNING" else f"the task is {status}"

            await starting.until_alive(Place(deployment.runtime._api_url), plan, ended)

        deployment = None
        try:
            with _boundary():
                config = self._library.FargateDeploymentConfig(**options)
                deployed = _deployment_class(self._library.FargateDeployment, plan, wait)
                # Fargate's container is named by the image, in the task's definition.
                del deployed._get_container_name
                deployment = deployed.from_config(config)
                asyncio.run(deployment.start())
                return _last_part(deployment._task_arn), Place(deployment.runtime._api_url)
        except BaseException:
            if task := getattr(deployment, "_task_arn", None):
                self.stop(_last_part(task))
            raise

    def place(self, handle: str) -> Place:
        if (status := self._status(handle)) != "RUNNING":
            raise SandboxLost(f"Fargate's task {handle} is {status}")
        with _boundary():
            address = self._library.get_public_ip(handle, self._cluster)
        return Place(f"http://{address}:{self._port}")

    def stop(self, handle: str) -> None:
        if self._status(handle) not in ("STOPPED", "gone"):
            with _boundary():
                self._boto3.client("ecs").stop_task(task=handle, cluster=self._cluster)

    def listed(self) -> list[Listed]:
        return []

    def _status(self, handle: str) -> str:
        with _boundary():
            ecs = self._boto3.client("ecs")
            tasks = ecs.describe_tasks(cluster=self._cluster, tasks=[handle])["tasks"]
        return str(tasks[0]["lastStatus"]) if tasks else "gone"


class DaytonaOptions(BaseModel):
    """The key is Daytona's own variable, ``DAYTONA_API_KEY``."""

    model_config = ConfigDict(extra="forbid")

    api_url: str = Field(
        default_factory=lambda: os.environ.get("DAYTONA_API_URL", "https://app.daytona.io/api")
    )
    target: str | None = Field(default_factory=lambda: os.environ.get("DAYTONA_TARGET"))
    """A region."""
    port: int = Field(default=8880, ge=3000, le=9999)
    """Of the server. Daytona shows no others to the outside."""
    sandbox: dict[str, Any] = Field(default_factory=dict)
    """More fields of ``CreateSandbox`` in Daytona's API, as its Python package calls them:
    ``cpu``, ``disk``, ``user``, ``env``, ``network_block_all``, ..."""


class Daytona:
    """Sandboxes of Daytona's, by the two generated packages that its SDK is built on: those give
    every request a time limit, where the SDK raises its own in the midst of a thread's work.

    A handle is the name that we give, so that also one whose making nobody answered can be ended.
    """

    PAUSE = 1.0
    """Seconds between two looks at one that starts: each is a request to the cloud."""
    ENDED = ("stopped", "error", "build_failed", "archived", "paused")
    GONE = ("destroyed", "destroying")

    def __init__(self, options: Mapping[str, Any], owner: str) -> None:
        self._api = _module("daytona_api_client", "daytona", "daytona")
        self._toolbox = _module("daytona_toolbox_api_client", "daytona", "daytona")
        self.owner = owner
        with _boundary():
            self.options = DaytonaOptions(**options)
        if unknown := set(self.options.sandbox) - set(self._api.CreateSandbox.model_fields):
            raise SandboxError(f"Daytona's sandboxes have no {', '.join(sorted(unknown))}")
        if not (key := os.environ.get("DAYTONA_API_KEY")):
            raise SandboxError("deployments of kind 'daytona' need DAYTONA_API_KEY to be set")
        self._headers = {
            "Authorization": f"Bearer {key}",
            "X-Daytona-SDK-Version": self._api.__version__,
        }
        self._sandboxes = self._api.SandboxApi(self._client(self._api, self.options.api_url))

    def start(self, plan: Plan, starting: Starting) -> tuple[str, Place]:
        name = f"pilotfish-{plan.mark}"
        try:
            with _boundary():
                self._sandboxes.create_sandbox(self._wanted(name, plan), _request_timeout=PATIENCE)
                found = self._until_started(name, plan, starting)
                ended = self._serve(found, plan)
                place = self._place(found)
                asyncio.run(starting.until_alive(place, plan, ended, pause=self.PAUSE))
                return name, place
        except BaseException:
            self.stop(name)
            raise

    def place(self, handle: str) -> Place:
        found = self._found(handle)
        if found is None or found.state != "started":
            raise SandboxLost(f"Daytona has no sandbox {handle} that runs")
        if found.labels.get(OURS) is None:
            raise SandboxLost(f"Daytona's sandbox {handle} is none of ours")
        with _boundary():
            return self._place(found)

    def stop(self, handle: str) -> None:
        conflict = self._api.exceptions.ConflictException  # it is about to change its state
        with _boundary(), contextlib.suppress(self._api.exceptions.NotFoundException):
            for attempt in stamina.retry_context(on=conflict, attempts=None, timeout=PATIENCE):
                with attempt:
                    self._sandboxes.delete_sandbox(handle, _request_timeout=PATIENCE)

    def listed(self) -> list[Listed]:
        found: list[Listed] = []
        labels, cursor = json.dumps({OURS: self.owner}), None
        with _boundary():
            while True:
                page = self._sandboxes.list_sandboxes(
                    labels=labels, cursor=cursor, limit=100, _request_timeout=PATIENCE
                )
                found += [self._listed(item) for item in page.items if item.state not in self.GONE]
                if not (cursor := page.next_cursor):
                    return found

    def _listed(self, item: Any) -> Listed:
        return Listed(
            mark=item.labels[f"{OURS}.mark"],
            handle=item.name,
            labels=_own(item.labels),
            expires=float(item.labels[f"{OURS}.expires"]),
            ended=item.state in self.ENDED,
        )

    def _wanted(self, name: str, plan: Plan) -> Any:
        minutes = max(1, math.ceil(plan.lifetime / 60))
        fields = {
            # Unless told otherwise it would stop one after a quarter of an hour without activity,
            # of which commands that run for long are none.
            "auto_stop_interval": minutes,
            "auto_delete_interval": 0,
            "ttl_minutes": minutes,
            "target": self.options.target,
            "public": False,
            **self.options.sandbox,
            "labels": {**self.options.sandbox.get("labels", {}), **plan.all_labels(self.owner)},
        }
        if "snapshot" not in fields:
            dockerfile = f"FROM {plan.image}\n"
            fields["build_info"] = self._api.CreateBuildInfo(dockerfile_content=dockerfile)
        if plan.memory is not None:
            fields["memory"] = math.ceil(plan.memory / 2**30)
        return self._api.CreateSandbox(name=name, **fields)

    def _until_started(self, name: str, plan: Plan, starting: Starting) -> Any:
        end = time.monotonic() + plan.start_timeout
        while True:
            found = self._found(name)
            if found is None:
                raise SandboxError("the sandbox is gone")
            if found.state == "started":
                return found
            if found.state in (*self.ENDED, *self.GONE):
                why = found.error_reason or "without a word"
                raise SandboxError(f"the sandbox is {_state(found)}: {why}")
            if time.monotonic() > end:
                limit = plan.start_timeout
                raise SandboxError(f"within {limit:g} s it was no further than {_state(found)}")
            if starting.given_up.wait(self.PAUSE):
                raise SandboxError("the start was given up")

    def _serve(self, found: Any, plan: Plan) -> Callable[[], str]:
        """Start the server; what is given back says why it ended, if it has."""
        base = f"{found.toolbox_proxy_url.rstrip('/')}/{found.id}"
        processes = self._toolbox.ProcessApi(self._client(self._toolbox, base))
        session = OURS
        processes.create_session(
            self._toolbox.CreateSessionRequest(session_id=session), _request_timeout=PATIENCE
        )
        serve = ["--port", str(self.options.port), "--auth-token", plan.token]
        command = self._toolbox.SessionExecuteRequest(
            command=shlex.join(["sh", "-c", SERVE, "sh", *serve]), run_async=True
        )
        began = processes.session_execute_command(session, command, _request_timeout=PATIENCE)

        def ended() -> str:
            with _boundary():
                there = processes.get_session_command(
                    session, began.cmd_id, _request_timeout=PATIENCE
                )
                if there.exit_code is None:
                    return ""
                logs = processes.get_session_command_logs(
                    session, began.cmd_id, _request_timeout=PATIENCE
                )
                return f"the server ended with {there.exit_code}: {logs.output[-2000:].strip()}"

        return ended

    def _place(self, found: Any) -> Place:
        shown = self._sandboxes.get_port_preview_url(
            found.id, self.options.port, _request_timeout=PATIENCE
        )
        return Place(shown.url.rstrip("/"), {"X-Daytona-Preview-Token": shown.token})

    def _found(self, name: str) -> Any:
        with _boundary():
            try:
                return self._sandboxes.get_sandbox(name, _request_timeout=PATIENCE)
            except self._api.exceptions.NotFoundException:
                return None

    def _client(self, package: Any, url: str) -> Any:
        client = package.ApiClient(package.Configuration(host=url.rstrip("/")))
        client.default_headers.update(self._headers)
        return client


KINDS: Mapping[str, type[Kind]] = {
    "docker": Docker,
    "modal": Modal,
    "fargate": Fargate,
    "daytona": Daytona,
}


class _Output:
    """Reads what ``docker run`` prints, to its end, and keeps the last lines for who asks why."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._last: deque[bytes] = deque(maxlen=20)
        self._readers = [
            threading.Thread(target=self._read, args=(stream,), daemon=True)
            for stream in (process.stdout, process.stderr)
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                self._last.append(line[:500])
        self._process.wait()

    def ended(self) -> str:
        if self._process.poll() is None:
            return ""
        for reader in self._readers:
            reader.join(5)
        said = b"".join(self._last).decode(errors="replace").strip()
        return f"the container ended: {said or 'without a word'}"


def _own(labels: Mapping[str, str]) -> dict[str, str]:
    """Those that the sandbox was started with."""
    return {
        name.removeprefix("pilotfish."): value
        for name, value in labels.items()
        if name.startswith("pilotfish.") and name != OURS and not name.startswith(f"{OURS}.")
    }


def _nothing_there(said: str) -> bool:
    return "no such container" in said.lower() or "no container with" in said.lower()


def _state(found: Any) -> str:
    return found.state.value if found.state else "in no state"


def _last_part(arn: str) -> str:
    return arn.rsplit("/", 1)[-1]
