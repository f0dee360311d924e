"""How each kind of deployment of the swe-rex library is started, found again and ended. Knows
nothing of tasks and actions. Everything here blocks, and is called in threads.

Of the library (1.4) its starting is used, and not more:

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
import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Protocol

import httpx

from search.errors import SandboxError, SandboxLost
from service.http_client import Client

OURS = "pilotfish.deployment"
"""The label that says whose deployment it is; below it what else we have to know of one."""
PATIENCE = 60.0
"""Seconds for one call of an engine's command line."""


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


@dataclass(frozen=True)
class Listed:
    """A deployment that is there."""

    mark: str
    handle: str
    labels: Mapping[str, str]
    expires: float
    ended: bool


class Starting:
    """One start that is under way."""

    def __init__(self, given_up: threading.Event) -> None:
        self.given_up = given_up

    async def until_alive(
        self, url: str, token: str, timeout: float, ended: Callable[[], str]
    ) -> None:
        """Raises: ``SandboxError``: ``ended`` says why, time is over, or nobody waits any more."""
        end = time.monotonic() + timeout
        said = "nothing"
        async with Client(trust_env=False, headers={"X-API-Key": token}) as client:
            while True:
                if self.given_up.is_set():
                    raise SandboxError("the start was given up")
                if reason := await asyncio.to_thread(ended):
                    raise SandboxError(reason)
                try:
                    reply = await client.get(f"{url}/is_alive", timeout=5.0)
                    if reply.status_code == 200:
                        return
                    said = f"{reply.status_code} {reply.text[:200]}"
                except httpx.TransportError as error:
                    said = str(error) or type(error).__name__
                if time.monotonic() > end:
                    raise SandboxError(f"no server within {timeout:g} s; last: {said}")
                await asyncio.sleep(0.1)


class Kind(Protocol):
    def __init__(self, options: Mapping[str, Any], owner: str) -> None: ...

    def start(self, plan: Plan, starting: Starting) -> tuple[str, str]:
        """The handle and URL of one whose server answers. One that does not start leaves nothing.
        Raises: ``SandboxError``."""
        ...

    def url(self, handle: str) -> str:
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
    try:
        return importlib.import_module(f"swerex.deployment.{kind}")
    except ImportError as error:
        wanted = extra or "deployments"
        raise SandboxError(
            f"deployments of kind {kind!r} need what is not installed ({error}):"
            f" pip install 'pilotfish-service[{wanted}]'"
        ) from error


@contextlib.contextmanager
def _boundary() -> Iterator[None]:
    """Whatever the library or a cloud's package raises is a failure of the sandbox's."""
    try:
        yield
    except SandboxError:
        raise
    except Exception as error:
        raise SandboxError(f"{type(error).__name__}: {str(error)[-2000:]}") from error


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

    def start(self, plan: Plan, starting: Starting) -> tuple[str, str]:
        labels = {
            **{f"pilotfish.{name}": value for name, value in plan.labels.items()},
            OURS: self.owner,
            f"{OURS}.mark": plan.mark,
            f"{OURS}.expires": str(time.time() + plan.lifetime),
        }
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
            url = deployment.runtime._api_url
            await starting.until_alive(url, plan.token, plan.start_timeout, output.ended)

        name = f"pilotfish-{plan.mark}"
        deployment = None
        try:
            with _boundary():
                deployed = _deployment_class(self._library.DockerDeployment, plan, wait)
                config = self._library.DockerDeploymentConfig(**options)
                deployment = deployed(logger=logging.getLogger(__name__), **config.model_dump())
                asyncio.run(deployment.start())
                return name, deployment.runtime._api_url
        except BaseException:
            client = getattr(deployment, "_container_process", None)
            if client is not None:
                client.kill()
                client.wait()
                self.stop(name)
            raise

    def url(self, handle: str) -> str:
        done = self._run("inspect", "--type=container", handle)
        found = json.loads(done.stdout or "[]") if done.returncode == 0 else []
        if not found or not found[0]["State"]["Running"]:
            raise SandboxLost(f"container {handle} does not run")
        if OURS not in (found[0]["Config"]["Labels"] or {}):
            raise SandboxLost(f"container {handle} is none of ours")
        ports = found[0]["NetworkSettings"]["Ports"]["8000/tcp"]
        return f"http://127.0.0.1:{ports[0]['HostPort']}"

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

    def start(self, plan: Plan, starting: Starting) -> tuple[str, str]:
        kwargs = dict(self.options.get("modal_sandbox_kwargs", {}))
        kwargs["tags"] = {
            **kwargs.get("tags", {}),
            **{f"pilotfish.{name}": value for name, value in plan.labels.items()},
            OURS: self.owner,
            f"{OURS}.mark": plan.mark,
            f"{OURS}.expires": str(time.time() + plan.lifetime),
        }
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

            url = deployment.runtime._api_url
            await starting.until_alive(url, plan.token, plan.start_timeout, ended)

        deployment = None
        try:
            with _boundary():
                config = self._library.ModalDeploymentConfig(**options)
                deployed = _deployment_class(self._library.ModalDeployment, plan, wait)
                deployment = deployed.from_config(config)
                asyncio.run(deployment.start())
                return deployment.sandbox.object_id, deployment.runtime._api_url
        except BaseException:
            if (sandbox := getattr(deployment, "_sandbox", None)) is not None:
                self.stop(sandbox.object_id)
            raise

    def url(self, handle: str) -> str:
        sandbox = self._found(handle)
        if sandbox is None:
            raise SandboxLost(f"Modal has no sandbox {handle} that runs")
        with _boundary():
            return str(sandbox.tunnels()[self.PORT].url)

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

    def start(self, plan: Plan, starting: Starting) -> tuple[str, str]:
        options = {"container_timeout": plan.lifetime, **self.options, "image": plan.image}
        if plan.memory is not None:
            memory = str(-(-plan.memory // 2**20))
            options["fargate_args"] = {**self.options.get("fargate_args", {}), "memory": memory}

        async def wait(deployment: Any) -> None:
            handle = _last_part(deployment._task_arn)

            def ended() -> str:
                status = self._status(handle)
                return "" if status == "RUNNING" else f"the task is {status}"

            url = deployment.runtime._api_url
            await starting.until_alive(url, plan.token, plan.start_timeout, ended)

        deployment = None
        try:
            with _boundary():
                config = self._library.FargateDeploymentConfig(**options)
                deployed = _deployment_class(self._library.FargateDeployment, plan, wait)
                # Fargate's container is named by the image, in the task's definition.
                del deployed._get_container_name
                deployment = deployed.from_config(config)
                asyncio.run(deployment.start())
                return _last_part(deployment._task_arn), deployment.runtime._api_url
        except BaseException:
            if task := getattr(deployment, "_task_arn", None):
                self.stop(_last_part(task))
            raise

    def url(self, handle: str) -> str:
        if (status := self._status(handle)) != "RUNNING":
            raise SandboxLost(f"Fargate's task {handle} is {status}")
        with _boundary():
            address = self._library.get_public_ip(handle, self._cluster)
        return f"http://{address}:{self._port}"

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


KINDS: Mapping[str, type[Kind]] = {"docker": Docker, "modal": Modal, "fargate": Fargate}


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


def _last_part(arn: str) -> str:
    return arn.rsplit("/", 1)[-1]
