"""Daytona's API as far as sandboxes go: the same paths, fields, refusals and states, with the
toolbox and the proxy before the ports, over processes in bubblewrap, in place of the cloud."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

KEY = "the-accounts-key"
FIELDS = {
    "name": str, "labels": dict, "public": bool, "memory": int, "target": str, "cpu": int,
    "autoStopInterval": int, "autoDeleteInterval": int, "ttlMinutes": int, "buildInfo": dict,
    "spot": bool, "kvm": bool,
}  # fmt: skip
IMAGES = ("host", "silent", "without")
"""``silent`` has a server that never listens, ``without`` one that cannot run."""
QUOTA = 8
"""GiB of memory that one sandbox may have."""
REMOTE = """#!/bin/sh
[ "$1 $3 $#" = "--port --auth-token 4" ] && [ "$2" = "$SHOWN" ] || { echo "usage: $*" >&2; exit 2; }
case $IMAGE in
silent) exec sleep 1000 ;;
without) echo "no python here" >&2; exit 7 ;;
esac
exec PYTHON -m swerex.server --host 127.0.0.1 --port "$LISTEN" --auth-token "$4"
"""


class Refused(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        said = {"statusCode": code, "message": message, "error": "Refused", "path": "/"}
        self.answer = JSONResponse(said, status_code=code)


class Sandbox:
    """One sandbox, and what runs in it. Its state goes on by one whenever it is looked at."""

    def __init__(self, given: dict[str, Any], image: str, address: str, programs: Path) -> None:
        self.id = str(uuid.uuid4())
        self.image = image
        self.token = os.urandom(8).hex()
        self.to_come = ["creating", "started"] if image in IMAGES else ["build_failed"]
        self.listens = _free_port()
        self.shown = 0
        self.sessions: dict[str, dict[str, subprocess.Popen[bytes]]] = {}
        self.logs = tempfile.TemporaryFile()  # noqa: SIM115 - closed with it
        self._programs = programs
        self.object: dict[str, Any] = {
            "id": self.id, "organizationId": "o", "name": given["name"], "user": "root", "env": {},
            "labels": given["labels"], "public": False, "networkBlockAll": False, "kvm": False,
            "target": "here", "cpu": 1, "gpu": 0, "memory": given.get("memory", 1), "disk": 3,
            "state": "pending_build", "errorReason": None,
            "autoStopInterval": given["autoStopInterval"], "ttlMinutes": given["ttlMinutes"],
            "toolboxProxyUrl": f"{address}/toolbox",
        }  # fmt: skip

    def look(self) -> dict[str, Any]:
        if self.to_come:
            self.object["state"] = self.to_come.pop(0)
            if self.object["state"] == "build_failed":
                self.object["errorReason"] = f"pull access denied for {self.image}"
        return self.object

    def execute(self, session: str, command: str) -> str:
        made = uuid.uuid4().hex
        prefixes = {sys.prefix, sys.base_prefix}
        self.sessions[session][made] = subprocess.Popen(
            [
                *("bwrap", "--unshare-pid", "--unshare-ipc", "--die-with-parent", "--new-session"),
                *("--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc"),
                *(part for name in ("bin", "sbin", "lib", "lib64")
                  for part in ("--symlink", f"usr/{name}", f"/{name}")),
                *("--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp"),
                *(part for place in sorted(prefixes) for part in ("--ro-bind", place, place)),
                *("--ro-bind", str(self._programs), "/programs"),
                *("sh", "-c", command),
            ],
            env={
                "PATH": "/programs:/usr/bin:/bin", "HOME": "/tmp", "SHOWN": str(self.shown),
                "LISTEN": str(self.listens), "IMAGE": self.image,
            },
            stdin=subprocess.DEVNULL,
            stdout=self.logs,
            stderr=self.logs,
        )  # fmt: skip
        return made

    def end(self) -> None:
        for commands in self.sessions.values():
            for process in commands.values():
                process.kill()
                process.wait(30)
        self.logs.close()


class Api:
    """The server. Its answers are given one at a time, but for those of the proxy."""

    def __init__(self, programs: Path) -> None:
        self.sandboxes: dict[str, Sandbox] = {}
        self.created: list[dict[str, Any]] = []
        self._programs = programs
        self._client = httpx.AsyncClient(trust_env=False, timeout=60)
        session = "/toolbox/{id}/process/session"
        command = f"{session}/{{session}}/command/{{command}}"
        self.app = Starlette(
            routes=[
                Route("/api/sandbox", self._create, methods=["POST"]),
                Route("/api/sandbox", self._list, methods=["GET"]),
                Route("/api/sandbox/{id}", self._get, methods=["GET"]),
                Route("/api/sandbox/{id}", self._delete, methods=["DELETE"]),
                Route("/api/sandbox/{id}/ports/{port:int}/preview-url", self._preview_url),
                Route(session, self._make_session, methods=["POST"]),
                Route(f"{session}/{{session}}/exec", self._execute, methods=["POST"]),
                Route(command, self._command, methods=["GET"]),
                Route(f"{command}/logs", self._logs, methods=["GET"]),
                Route("/show/{id}/{route:path}", self._show, methods=["GET", "POST"]),
            ],
            exception_handlers={Refused: lambda request, error: error.answer},  # type: ignore[attr-defined]
        )

    def kill(self, name: str) -> None:
        """End it from outside, as the cloud may."""
        found = self._of(name)
        found.object["state"] = "stopped"
        found.end()

    # ---- the API

    async def _create(self, request: Request) -> JSONResponse:
        _authenticate(request)
        given = {name: value for name, value in (await request.json()).items() if value is not None}
        for name, value in given.items():
            if type(value) is not FIELDS.get(name):
                raise Refused(400, f"property {name} should not exist, or not as {value!r}")
        if any(found.object["name"] == given["name"] for found in self.sandboxes.values()):
            raise Refused(409, f"Sandbox with name {given['name']} already exists")
        if given.get("memory", 1) > QUOTA:
            raise Refused(403, f"Memory request {given['memory']}GB exceeds maximum allowed")
        if given["autoStopInterval"] < 1 or given["ttlMinutes"] < 1 or given["autoDeleteInterval"]:
            raise Refused(400, "it would stay")
        image = re.fullmatch(r"FROM (\S+)\n", given["buildInfo"]["dockerfileContent"])
        if image is None:
            raise Refused(400, "no Dockerfile")
        made = Sandbox(given, image[1], _address(request), self._programs)
        self.created.append(given)
        self.sandboxes[made.id] = made
        return JSONResponse(made.object)

    async def _list(self, request: Request) -> JSONResponse:
        _authenticate(request)
        wanted = json.loads(request.query_params["labels"])
        found = [
            sandbox.object
            for sandbox in self.sandboxes.values()
            if wanted.items() <= sandbox.object["labels"].items()
        ]
        # Pages of one, so that whoever reads the first only is found out.
        start = int(request.query_params.get("cursor", 0))
        after = str(start + 1) if start + 1 < len(found) else None
        return JSONResponse({"items": found[start : start + 1], "nextCursor": after})

    async def _get(self, request: Request) -> JSONResponse:
        return JSONResponse(self._sandbox(request).look())

    async def _delete(self, request: Request) -> JSONResponse:
        found = self._sandbox(request)
        if found.object["state"] == "creating":
            found.look()
            raise Refused(409, "Sandbox state change in progress")
        found.end()
        del self.sandboxes[found.id]
        return JSONResponse(found.object | {"state": "destroying"})

    async def _preview_url(self, request: Request) -> JSONResponse:
        found = self._sandbox(request)
        port = request.path_params["port"]
        if found.object["state"] != "started" or not 3000 <= port <= 9999:
            raise Refused(400, "no such port")
        if port != found.shown:
            raise Refused(400, f"nothing was started on {port}")
        url = f"{_address(request)}/show/{found.id}"
        return JSONResponse({"sandboxId": found.id, "url": url, "token": found.token})

    # ---- the toolbox

    async def _make_session(self, request: Request) -> Response:
        found = self._started(request)
        found.sessions[(await request.json())["sessionId"]] = {}
        return Response(status_code=201)

    async def _execute(self, request: Request) -> JSONResponse:
        found = self._started(request)
        given = await request.json()
        if not given.get("runAsync"):
            raise Refused(408, "it did not end")
        words = shlex.split(given["command"])
        found.shown = int(words[words.index("--port") + 1])
        made = found.execute(request.path_params["session"], given["command"])
        return JSONResponse({"cmdId": made}, status_code=202)

    async def _command(self, request: Request) -> JSONResponse:
        process = self._process(request)
        said = {"id": request.path_params["command"], "command": "..."}
        code = process.poll()
        return JSONResponse(said if code is None else said | {"exitCode": code})

    async def _logs(self, request: Request) -> JSONResponse:
        self._process(request)
        if "X-Daytona-SDK-Version" not in request.headers:
            raise Refused(400, "who does not say its version is given plain text")
        logs = self._started(request).logs
        logs.seek(0)
        text = logs.read().decode()
        return JSONResponse({"output": text, "stdout": text, "stderr": ""})

    # ---- the proxy before the ports

    async def _show(self, request: Request) -> Response:
        found = self.sandboxes.get(request.path_params["id"])
        if found is None:
            raise Refused(404, "sandbox not found")
        if request.headers.get("X-Daytona-Preview-Token") != found.token:
            raise Refused(401, "unauthorized")
        if found.object["state"] != "started":
            raise Refused(400, "sandbox is not running")
        kept = ("x-api-key", "content-type", "x-request-id")
        try:
            answer = await self._client.request(
                request.method,
                f"http://127.0.0.1:{found.listens}/{request.path_params['route']}",
                content=await request.body(),
                headers={name: value for name, value in request.headers.items() if name in kept},
            )
        except httpx.TransportError as error:
            raise Refused(502, f"runner is unreachable: {error}") from error
        return Response(answer.content, answer.status_code, media_type="application/json")

    # ---- finding

    def _of(self, name: str) -> Sandbox:
        for found in self.sandboxes.values():
            if name in (found.id, found.object["name"]):
                return found
        raise Refused(404, f"Sandbox with ID or name {name} not found")

    def _sandbox(self, request: Request) -> Sandbox:
        _authenticate(request)
        return self._of(request.path_params["id"])

    def _started(self, request: Request) -> Sandbox:
        found = self._sandbox(request)
        if request.path_params["id"] != found.id or found.object["state"] != "started":
            raise Refused(400, "the toolbox knows the ids of those that run, and no names")
        return found

    def _process(self, request: Request) -> subprocess.Popen[bytes]:
        names = request.path_params
        return self._started(request).sessions[names["session"]][names["command"]]


def _authenticate(request: Request) -> None:
    if request.headers.get("Authorization") != f"Bearer {KEY}":
        raise Refused(401, "Unauthorized")


def _address(request: Request) -> str:
    return str(request.base_url).rstrip("/")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def api_server() -> Iterator[tuple[Api, str]]:
    """The server and its address."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as listener:
        program = Path(folder) / "swerex-remote"
        program.write_text(REMOTE.replace("PYTHON", sys.executable))
        program.chmod(0o755)
        Path(folder).chmod(0o755)
        api = Api(Path(folder))
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            api.app, loop="asyncio", log_level="error", lifespan="off", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield api, f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        finally:
            server.should_exit = True
            thread.join(30)
            for sandbox in api.sandboxes.values():
                sandbox.end()
