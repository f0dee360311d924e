"""Sandboxes as pods of a Kubernetes cluster. Knows nothing of how the cluster is spoken to, and of
what the agent does in them.

A pod's one process only waits; commands are executed beside it, through the same script as on
SWE-ReX servers, so an image needs no more than a shell and the usual small programs.

What holds the agent in: an ordinary user without capabilities and with no way to any, the runtime's
default seccomp profile, no token of the cluster's, limits on memory, CPU and disk, an end of the
pod's time. Not in a pod's power are the network (a NetworkPolicy has to close it, and the cluster
has to heed it) and the number of processes (the kubelet's ``podPidsLimit``)."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import shlex
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import structlog
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from pilotfish import Task
from search.contracts import Gone
from search.errors import SandboxError, SandboxLost
from service.sandboxes.actions import ScriptedActions
from service.sandboxes.cluster import Cluster, why_ended
from service.sandboxes.container import MAX_FILE, POLL, READ, WRITE
from service.sandboxes.server import Reply
from service.sandboxes.swerex import SwerexSandbox, refuse_hosts

log = structlog.get_logger()

OURS = "pilotfish/sandbox"
"""The label that says whose sandbox it is."""
FOLDER = "/pilotfish"
"""In the pod: the script, and below it the results of actions."""
CONTAINER = "sandbox"
WAIT = "while :; do sleep 3600 & wait $!; done"
FROM_STDIN = 'command=$(head -c "$1"); eval "$command"'
"""A command may be longer than an URL may be."""
HOPELESS = (
    "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError",
    "CreateContainerError", "RunContainerError", "CrashLoopBackOff",
)  # fmt: skip
"""Reasons for which a container waits and which waiting does not cure."""


class KubernetesSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["kubernetes"] = "kubernetes"
    url: str | None = None
    """The API: ``https://HOST:6443``. By default the cluster in which the service is a pod, with
    its service account."""
    token: SecretStr = SecretStr("")
    token_file: Path | None = None
    """Read again at every call. Goes before ``token``."""
    ca_file: Path | None = None
    """What the API's certificate is checked by; by default what the system trusts."""
    namespace: str | None = None
    """By default the service's own, or ``default``."""
    away: float = Field(default=10.0, gt=0)
    """Seconds that an API which does not answer is waited for."""
    owner: str = Field(default="pilotfish", pattern=r"^[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?$")
    """Whose the pods are, as a label. Services that share a namespace and not a Redis each need
    their own, or they remove each other's pods."""

    image_names: dict[str, str] = Field(default_factory=dict)
    """Another image in place of the one that a task names."""
    pull: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    pull_secrets: list[str] = Field(default_factory=list)
    """Names of secrets with logins for registries."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[dict[str, Any]] = Field(default_factory=list)
    """As a pod has them."""
    runtime_class: str | None = None
    """``gvisor``, ``kata``, as the cluster calls it."""
    service_account: str | None = None
    """Its token is not given to the pod in any case."""
    annotations: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)

    user: int = Field(default=10_001, ge=0)
    """Who commands run as. 0 is root, without capabilities; images whose files are root's want
    it."""
    read_only: bool = False
    """Whether only the working folder and ``/tmp`` can be written."""
    keep_workdir: bool = False
    """Leaves what the image has in the working folder where it is; otherwise a fresh folder of
    bounded size is put in its place."""
    environment: dict[str, str] = Field(default_factory=dict)
    memory: int = Field(default=2 * 2**30, ge=2**26)
    """Bytes. A task's own goes first."""
    cpus: float = Field(default=1.0, gt=0)
    disk: int = Field(default=2 * 2**30, ge=2**20)
    """Bytes that a pod may write; one that writes more is evicted, and lost."""
    output: int = Field(default=100_000, ge=1000)
    """Bytes of a command's output that are kept: half from its beginning, half from its end."""
    setup_timeout: float = Field(default=600.0, gt=0)
    """Seconds for each of a task's set-up commands."""
    start_timeout: float = Field(default=600.0, gt=0)
    """Seconds until a pod must run, the pull of its image included."""
    lifetime: float = Field(default=14_400.0, gt=0)
    """Seconds after which a sandbox ends, whatever it does."""


class PodServer:
    """Answers as a SWE-ReX server would, by what is executed in one pod."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name

    async def is_alive(self, patience: float = 10.0) -> None:
        await self.cluster.check_running(self.name)

    async def post(
        self, route: str, body: dict[str, Any], *, patience: float, request_id: str = ""
    ) -> Reply:
        match route:
            case "execute":
                return await self._command(body["command"], patience)
            case "write_file":
                text = body["content"].encode(errors="surrogatepass")
                command = ["sh", "-c", WRITE, "sh", body["path"], str(len(text))]
                return await self._command(command, patience, text)
            case "read_file":
                command = ["sh", "-c", READ, "sh", body["path"], str(MAX_FILE + 1)]
                reply = await self._command(command, patience)
                text = reply.fields.get("stdout", "")
                if len(text) > MAX_FILE:
                    return Reply({}, "too long", f"{body['path']} is longer than {MAX_FILE:,}")
                return reply._replace(fields={"content": text})
        raise SandboxError(f"pods do not answer {route}")

    async def _command(
        self, command: list[str], patience: float, stdin: bytes | None = None
    ) -> Reply:
        line = shlex.join(command) + ("" if stdin is not None else " </dev/null")
        sent = line.encode(errors="surrogatepass")
        done = await self.cluster.execute(
            self.name,
            CONTAINER,
            ["sh", "-c", FROM_STDIN, "sh", str(len(sent))],
            stdin=sent + (stdin or b""),
            patience=patience,
        )
        stdout, stderr = (
            part.decode(errors="backslashreplace") for part in (done.stdout, done.stderr)
        )
        if done.exit_code:
            return Reply({}, f"exit code {done.exit_code}", (stderr or stdout)[-2000:].strip())
        return Reply({"stdout": stdout, "stderr": stderr, "exit_code": 0})


class KubernetesProvider:
    """Starts pods, and finds those of other processes again. An async context manager: it holds the
    connections, and removes what it still has to before they are closed."""

    def __init__(self, settings: KubernetesSettings | None = None) -> None:
        self.settings = settings = settings or KubernetesSettings()
        self.cluster = Cluster(
            settings.url,
            namespace=settings.namespace,
            token=settings.token.get_secret_value(),
            token_file=settings.token_file,
            ca_file=settings.ca_file,
            away=settings.away,
        )
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
        await self.cluster.__aexit__(None, None, None)

    @asynccontextmanager
    async def start(
        self, task: Task, *, labels: dict[str, str] | None = None
    ) -> AsyncIterator[SwerexSandbox]:
        refuse_hosts(task, "pods")
        name = f"pilotfish-{uuid.uuid4().hex}"
        key = secrets.token_hex(16)
        pod = self._pod(name, task, key, labels or {})
        sandbox = self._sandbox(name, task.workdir, key)
        creating = asyncio.ensure_future(self.cluster.create(pod))
        try:
            # Not cancelled with us: the cluster would make what nobody removes.
            await asyncio.shield(creating)
            await self._until_running(name)
            await sandbox.server.post(
                "execute", {"command": ["mkdir", "-p", f"{FOLDER}/actions"]}, patience=20
            )
            assert isinstance(sandbox.actions, ScriptedActions)
            await sandbox.actions.install()
            await sandbox.prepare(task, timeout=self.settings.setup_timeout)
            yield sandbox
        finally:
            await self._surely(self._end(sandbox, creating))

    async def attach(self, sandbox_id: str) -> SwerexSandbox:
        found = None
        if re.fullmatch(r"pilotfish-[0-9a-f]{32}", sandbox_id):
            await self.cluster.check_running(sandbox_id)
            found = await self.cluster.pod(sandbox_id)
        if found is None or OURS not in found["metadata"].get("labels", {}):
            raise SandboxLost(f"sandbox {sandbox_id} is gone")
        known = found["metadata"]["annotations"]
        return self._sandbox(sandbox_id, known[f"{OURS}-workdir"], known[f"{OURS}-key"])

    async def reap(self, gone: Gone | None = None) -> dict[str, Mapping[str, str]]:
        """As the contract says. A cluster that cannot be reached is left for the next time."""
        removed: dict[str, Mapping[str, str]] = {}
        try:
            there = await self.cluster.pods(f"{OURS}={self.settings.owner}")
        except SandboxError as error:
            log.warning("pods_not_reaped", cluster=self.cluster.url, error=str(error))
            return removed
        for pod in there:
            name, known = pod["metadata"]["name"], pod["metadata"].get("annotations", {})
            if pod["metadata"].get("deletionTimestamp"):
                continue
            labels: dict[str, str] = json.loads(known.get(f"{OURS}-labels", "{}"))
            over = why_ended(pod) or float(known.get(f"{OURS}-expires", 0)) < time.time()
            if over or (gone is not None and await gone(labels)):
                try:
                    await self.cluster.delete(name)
                    removed[name] = labels
                except SandboxError as error:
                    log.warning("pod_not_removed", sandbox=name, error=str(error))
        return removed

    def _pod(self, name: str, task: Task, key: str, labels: dict[str, str]) -> dict[str, Any]:
        settings = self.settings
        limits = {
            "memory": str(task.memory or settings.memory),
            "cpu": f"{max(1, round(settings.cpus * 1000))}m",
            "ephemeral-storage": str(settings.disk),
        }
        places = {"pilotfish": FOLDER, "tmp": "/tmp"}
        if not settings.keep_workdir:
            places["workdir"] = task.workdir
        environment = {
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            # The working folder belongs to nobody that git would trust.
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            **settings.environment,
        }
        spec: dict[str, Any] = {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": max(1, round(settings.lifetime)),
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "hostname": "sandbox",
            "securityContext": {
                "runAsUser": settings.user,
                "runAsGroup": settings.user,
                "runAsNonRoot": settings.user != 0,
                "fsGroup": settings.user,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": CONTAINER,
                    "image": settings.image_names.get(task.image, task.image),
                    "imagePullPolicy": settings.pull,
                    "command": ["sh", "-c", WAIT],
                    "workingDir": "/",
                    "env": [{"name": k, "value": v} for k, v in environment.items()],
                    "resources": {"requests": limits, "limits": limits},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "privileged": False,
                        "readOnlyRootFilesystem": settings.read_only,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": k, "mountPath": v} for k, v in places.items()],
                }
            ],
            "volumes": [
                {"name": place, "emptyDir": {"sizeLimit": str(settings.disk)}} for place in places
            ],
        }
        if settings.node_selector:
            spec["nodeSelector"] = settings.node_selector
        if settings.tolerations:
            spec["tolerations"] = settings.tolerations
        if settings.pull_secrets:
            spec["imagePullSecrets"] = [{"name": secret} for secret in settings.pull_secrets]
        if settings.runtime_class:
            spec["runtimeClassName"] = settings.runtime_class
        if settings.service_account:
            spec["serviceAccountName"] = settings.service_account
        annotations = {
            **settings.annotations,
            f"{OURS}-labels": json.dumps(labels),
            f"{OURS}-task": task.id,
            f"{OURS}-workdir": task.workdir,
            f"{OURS}-key": key,
            f"{OURS}-expires": str(time.time() + settings.lifetime),
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": self.cluster.namespace,
                "labels": {**settings.labels, OURS: settings.owner},
                "annotations": annotations,
            },
            "spec": spec,
        }

    async def _until_running(self, name: str) -> None:
        end = time.monotonic() + self.settings.start_timeout
        pause = 0.1
        while True:
            pod = await self.cluster.pod(name)
            if pod is None:
                raise SandboxError(f"pod {name} was removed before it ran")
            if ended := why_ended(pod):
                raise SandboxError(f"the pod ended before it could be used: {ended}")
            status = pod.get("status", {})
            state = (status.get("containerStatuses") or [{}])[0].get("state", {})
            if "running" in state:
                return
            waiting = state.get("waiting", {})
            if waiting.get("reason") in HOPELESS:
                why = waiting.get("message") or "; ".join(await self.cluster.events(name))
                raise SandboxError(f"the pod cannot run: {waiting['reason']}: {why}")
            if time.monotonic() > end:
                why = "; ".join(_unmet(status) + (await self.cluster.events(name))[-3:])
                limit = self.settings.start_timeout
                raise SandboxError(f"the pod did not run within {limit:g} s: {why or 'no reason'}")
            await asyncio.sleep(pause)
            pause = min(2.0, 1.3 * pause)

    def _sandbox(self, name: str, workdir: str, key: str) -> SwerexSandbox:
        server = PodServer(self.cluster, name)
        actions = ScriptedActions(
            server,
            f"{FOLDER}/actions",
            output=self.settings.output,
            wait=POLL,
            key=bytes.fromhex(key),
        )
        actions.script = f"{FOLDER}/actions.sh"

        async def remove() -> None:
            await self.cluster.delete(name)

        return SwerexSandbox(name, server, actions, workdir, remove)

    async def _end(self, sandbox: SwerexSandbox, creating: asyncio.Future[None]) -> None:
        await asyncio.gather(creating, return_exceptions=True)
        try:
            await sandbox.close()
        except SandboxError as error:
            # Its deadline ends it, and it is reaped.
            log.warning("pod_not_removed", sandbox=sandbox.id, error=str(error))

    async def _surely(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it to the end, even if whoever waits for it is cancelled."""
        removing = asyncio.ensure_future(work)
        self._removing.add(removing)
        removing.add_done_callback(self._removing.discard)
        await asyncio.shield(removing)


def _unmet(status: Mapping[str, Any]) -> list[str]:
    """What a pod still waits for, and why."""
    return [
        f"{condition['type']}: {condition.get('reason', '')}: {condition.get('message', '')}"
        for condition in status.get("conditions") or []
        if condition["status"] == "False" and condition.get("message")
    ]
