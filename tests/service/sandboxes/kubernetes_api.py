"""An API server of Kubernetes as far as sandboxes go: the same paths, objects, refusals, channels,
over processes in namespaces of their own (bubblewrap, nsenter; as root), in place of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

TOKEN = "the-accounts-token"
NAMESPACE = "agents"
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?", re.ASCII)
LABEL_NAME = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", re.ASCII)
QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|M|G|Ki|Mi|Gi)?")
FIELDS = {
    "pod": {"apiVersion", "kind", "metadata", "spec"},
    "metadata": {"name", "namespace", "labels", "annotations"},
    "spec": {
        "restartPolicy", "activeDeadlineSeconds", "terminationGracePeriodSeconds",
        "automountServiceAccountToken", "enableServiceLinks", "hostname", "securityContext",
        "containers", "volumes", "nodeSelector", "tolerations", "imagePullSecrets",
        "runtimeClassName", "serviceAccountName",
    },
    "podSecurity": {"runAsUser", "runAsGroup", "runAsNonRoot", "fsGroup", "seccompProfile"},
    "container": {
        "name", "image", "imagePullPolicy", "command", "workingDir", "env", "resources",
        "securityContext", "volumeMounts",
    },
    "security": {
        "allowPrivilegeEscalation", "privileged", "readOnlyRootFilesystem", "capabilities",
    },
}  # fmt: skip
IMAGES = ("host",)
NODE_CPUS = 4000


class Refused(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.answer = JSONResponse(
            {
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": message, "reason": reason, "code": code,
            },
            status_code=code,
        )  # fmt: skip


class Pod:
    """One pod's object, and its process once it runs."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.object = given
        self.began = time.monotonic()
        self.process: subprocess.Popen[bytes] | None = None
        self.pid = 0
        given["metadata"]["uid"] = os.urandom(16).hex()
        given["status"] = {"phase": "Pending", "conditions": []}
        container = given["spec"]["containers"][0]
        if _milli(container["resources"]["limits"]["cpu"]) > NODE_CPUS:
            unschedulable = "0/1 nodes are available: 1 Insufficient cpu."
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
            given["status"]["conditions"] = [condition | {"message": unschedulable}]
        elif container["image"] not in IMAGES:
            waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
            given["status"]["containerStatuses"] = [{"state": {"waiting": waiting}}]
        else:
            self._run(container)
            given["status"]["phase"] = "Running"
            given["status"]["containerStatuses"] = [{"state": {"running": {}}}]

    def _run(self, container: dict[str, Any]) -> None:
        places = [mount["mountPath"] for mount in container["volumeMounts"]]
        mine, theirs = os.pipe()
        self.process = subprocess.Popen(
            [
                *("bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
                *("--die-with-parent", "--new-session", "--info-fd", str(theirs)),
                *("--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc"),
                *(part for name in ("bin", "sbin", "lib", "lib64")
                  for part in ("--symlink", f"usr/{name}", f"/{name}")),
                *("--proc", "/proc", "--dev", "/dev"),
                *(part for place in places for part in ("--perms", "1777", "--tmpfs", place)),
                *container["command"],
            ],
            pass_fds=[theirs],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        with os.fdopen(mine) as said:
            self.pid = json.load(said)["child-pid"]
        while os.readlink(f"/proc/{self.pid}/root") != "/" or not _is_up(self.pid):
            time.sleep(0.01)

    def look(self) -> None:
        status = self.object["status"]
        if status["phase"] != "Running":
            return
        assert self.process
        if time.monotonic() - self.began > self.object["spec"]["activeDeadlineSeconds"]:
            self.fail("DeadlineExceeded", "Pod was active on the node longer than the deadline")
        elif self.process.poll() is not None:
            status["phase"] = "Failed"
            ended = {"exitCode": 137, "reason": "OOMKilled"}
            status["containerStatuses"] = [{"state": {"terminated": ended}}]

    def fail(self, reason: str, message: str) -> None:
        self.kill()
        self.object["status"] |= {"phase": "Failed", "reason": reason, "message": message}

    def kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.process.wait(30)


class Api:
    """The server. Its answers are given one at a time."""

    def __init__(self) -> None:
        self.pods: dict[str, Pod] = {}
        self.executed: list[str] = []
        base = f"/api/v1/namespaces/{NAMESPACE}"
        self.app = Starlette(
            routes=[
                Route(f"{base}/pods", self._list, methods=["GET"]),
                Route(f"{base}/pods", self._create, methods=["POST"]),
                Route(f"{base}/pods/{{name}}", self._get, methods=["GET"]),
                Route(f"{base}/pods/{{name}}", self._delete, methods=["DELETE"]),
                Route(f"{base}/events", self._events, methods=["GET"]),
                WebSocketRoute(f"{base}/pods/{{name}}/exec", self._exec),
            ],
            exception_handlers={Refused: lambda request, error: error.answer},  # type: ignore[attr-defined]
        )

    async def _create(self, request: Request) -> JSONResponse:
        _authenticate(request)
        if request.headers.get("content-type") != "application/json":
            raise Refused(415, "UnsupportedMediaType", "the body of the request was in no format")
        given = await request.json()
        _check_pod(given)
        name = given["metadata"]["name"]
        if name in self.pods:
            raise Refused(409, "AlreadyExists", f'pods "{name}" already exists')
        self.pods[name] = Pod(given)
        return JSONResponse(given, status_code=201)

    async def _get(self, request: Request) -> JSONResponse:
        return JSONResponse(self._pod(request).object)

    async def _list(self, request: Request) -> JSONResponse:
        _authenticate(request)
        wanted = dict(part.split("=") for part in request.query_params["labelSelector"].split(","))
        found = []
        for pod in self.pods.values():
            pod.look()
            labels = pod.object["metadata"]["labels"]
            if all(labels.get(name) == value for name, value in wanted.items()):
                found.append(pod.object)
        # Pages of one, so that whoever reads the first only is found out.
        start = int(request.query_params.get("continue", 0))
        metadata = {"continue": str(start + 1)} if start + 1 < len(found) else {}
        items = found[start : start + 1]
        return JSONResponse({"kind": "PodList", "metadata": metadata, "items": items})

    async def _delete(self, request: Request) -> JSONResponse:
        pod = self._pod(request)
        await asyncio.to_thread(pod.kill)
        self.pods.pop(request.path_params["name"], None)
        return JSONResponse(pod.object)

    async def _events(self, request: Request) -> JSONResponse:
        _authenticate(request)
        event = {"reason": "FailedScheduling", "message": "the cluster is full"}
        return JSONResponse({"kind": "EventList", "metadata": {}, "items": [event]})

    def _pod(self, request: Request) -> Pod:
        _authenticate(request)
        name = request.path_params["name"]
        if name not in self.pods:
            raise Refused(404, "NotFound", f'pods "{name}" not found')
        self.pods[name].look()
        return self.pods[name]

    async def _exec(self, websocket: WebSocket) -> None:
        query = websocket.query_params
        pod = self.pods.get(websocket.path_params["name"])
        if websocket.headers.get("authorization") != f"Bearer {TOKEN}":
            await websocket.send_denial_response(Refused(401, "Unauthorized", "who?").answer)
            return
        if pod is None:
            await websocket.send_denial_response(Refused(404, "NotFound", "no pod").answer)
            return
        pod.look()
        container = pod.object["spec"]["containers"][0]
        command = query.getlist("command")
        flaw = not command or query.get("container") != container["name"]
        if flaw or len(str(websocket.url)) > 8000 or pod.object["status"]["phase"] != "Running":
            refusal = Refused(400, "BadRequest", "container not found, or no command")
            await websocket.send_denial_response(refusal.answer)
            return
        offered = websocket.scope["subprotocols"]
        await websocket.accept(subprotocol=offered[0])
        self.executed.append(offered[0])
        security = pod.object["spec"]["securityContext"]
        user, group = str(security["runAsUser"]), str(security["runAsGroup"])
        process = await asyncio.create_subprocess_exec(
            *("nsenter", "-t", str(pod.pid), "-m", "-p", "-n", "-i", "-u", "-r", "-w", "--"),
            *("setpriv", "--reuid", user, "--regid", group, "--clear-groups"),
            *("--bounding-set=-all", "--no-new-privs", "--"),
            *command,
            env={
                "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
                **{pair["name"]: pair["value"] for pair in container["env"]},
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdin
        assert process.stdout
        assert process.stderr
        reading = asyncio.ensure_future(_feed(websocket, process.stdin))
        try:
            await websocket.send_bytes(b"\1")  # as the real one does, to say that it has begun
            await asyncio.gather(
                _pass_on(websocket, 1, process.stdout), _pass_on(websocket, 2, process.stderr)
            )
            code = await process.wait()
            await websocket.send_bytes(b"\3" + json.dumps(_ended(code)).encode())
            await websocket.close()
        except (WebSocketDisconnect, RuntimeError):
            pass  # nobody listens any more; the command goes on, as a real one's does
        finally:
            reading.cancel()


async def _feed(websocket: WebSocket, stdin: asyncio.StreamWriter) -> None:
    with contextlib.suppress(WebSocketDisconnect, ConnectionError, KeyError):
        while True:
            message = await websocket.receive_bytes()
            assert message[0] == 0, "only stdin comes from a client"
            stdin.write(message[1:])
            await stdin.drain()


async def _pass_on(websocket: WebSocket, channel: int, stream: asyncio.StreamReader) -> None:
    while part := await stream.read(2**15):
        await websocket.send_bytes(bytes([channel]) + part)


def _ended(code: int) -> dict[str, Any]:
    code = code if code >= 0 else 128 - code
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def _authenticate(request: Request) -> None:
    if request.headers.get("authorization") != f"Bearer {TOKEN}":
        raise Refused(401, "Unauthorized", "Unauthorized")


def _check_pod(pod: dict[str, Any]) -> None:
    metadata, spec = pod["metadata"], pod["spec"]
    _check_fields("pod", pod)
    _check_fields("metadata", metadata)
    _check_fields("spec", spec)
    _check_fields("podSecurity", spec["securityContext"])
    _require(pod["apiVersion"] == "v1" and pod["kind"] == "Pod", "kind")
    _require(metadata["namespace"] == NAMESPACE, "metadata.namespace")
    _require(NAME.fullmatch(metadata["name"]), "metadata.name")
    for name, value in metadata["labels"].items():
        _require(LABEL_NAME.fullmatch(name) and LABEL.fullmatch(value), f"metadata.labels {name}")
    for name, value in metadata["annotations"].items():
        _require(LABEL_NAME.fullmatch(name), f"metadata.annotations {name}")
        _require(isinstance(value, str), f"metadata.annotations {name}")
    _require(type(spec["activeDeadlineSeconds"]) is int, "spec.activeDeadlineSeconds")
    volumes = {volume["name"] for volume in spec["volumes"]}
    for volume in spec["volumes"]:
        _require(NAME.fullmatch(volume["name"]), "spec.volumes")
        _require(QUANTITY.fullmatch(volume["emptyDir"]["sizeLimit"]), "sizeLimit")
    for container in spec["containers"]:
        _check_fields("container", container)
        _check_fields("security", container["securityContext"])
        limits, requests = container["resources"]["limits"], container["resources"]["requests"]
        _require(set(limits) <= {"cpu", "memory", "ephemeral-storage"}, "limits")
        _require(all(QUANTITY.fullmatch(value) for value in limits.values()), "limits")
        _require(requests == limits, "requests")
        _require(all(isinstance(pair["value"], str) for pair in container["env"]), "env")
        _require({mount["name"] for mount in container["volumeMounts"]} <= volumes, "volumeMounts")


def _check_fields(what: str, given: dict[str, Any]) -> None:
    if unknown := set(given) - FIELDS[what]:
        raise Refused(400, "BadRequest", f'strict decoding error: unknown field "{unknown}"')


def _require(holds: object, field: str) -> None:
    if not holds:
        raise Refused(422, "Invalid", f"Pod is invalid: {field}: Invalid value")


def _milli(quantity: str) -> int:
    return int(quantity[:-1]) if quantity.endswith("m") else int(quantity) * 1000


def _is_up(pid: int) -> bool:
    """Whether bubblewrap is done with its preparations: the pod's command runs."""
    with contextlib.suppress(OSError):
        children = subprocess.run(
            ["ps", "--ppid", str(pid), "-o", "comm="], capture_output=True, text=True, check=False
        ).stdout.split()
        return "sh" in children
    return False


@contextlib.contextmanager
def api_server() -> Iterator[tuple[Api, str]]:
    """The server and its address."""
    api = Api()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            api.app, loop="asyncio", ws="websockets-sansio", log_level="error", lifespan="off",
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield api, f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
            for pod in api.pods.values():
                pod.kill()
