"""A Kubernetes cluster as we speak to it: the few calls of its HTTP API that sandboxes need. Knows
nothing of tasks, and of what a command means.

Every call may be repeated: pods are named by us, and what is executed in them twice must be made to
do no harm. So a call that was not answered is tried again while ``away`` seconds last.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

import httpx
import stamina
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from search.errors import SandboxError, SandboxLost
from service.http_client import Client

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""What a pod is given to speak to its own cluster."""
PROTOCOLS = [Subprotocol("v5.channel.k8s.io"), Subprotocol("v4.channel.k8s.io")]
STDIN, STDOUT, STDERR, ERROR = range(4)
"""Channels: the first byte of every message."""
MAX_OUTPUT = 64 * 2**20
"""Bytes of all that one command may print."""


class Executed(NamedTuple):
    """What one command in a pod gave."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class _Away(Exception):
    """No answer, or one that says to come again."""


class Cluster:
    """One namespace of a cluster. An async context manager: it holds the connections.

    Without ``url`` it is the cluster in which this process is a pod."""

    def __init__(
        self,
        url: str | None,
        *,
        namespace: str | None = None,
        token: str = "",
        token_file: Path | None = None,
        ca_file: Path | None = None,
        away: float = 10.0,
    ) -> None:
        if url is None:
            host = os.environ.get("KUBERNETES_SERVICE_HOST")
            if not host:
                raise SandboxError("this is no pod of a cluster: set `url` to the API's address")
            host = f"[{host}]" if ":" in host else host
            url = f"https://{host}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}"
            token_file, ca_file = token_file or ACCOUNT / "token", ca_file or ACCOUNT / "ca.crt"
            if namespace is None and (own := ACCOUNT / "namespace").exists():
                namespace = own.read_text().strip()
        self.url = url.rstrip("/")
        self.namespace = namespace or "default"
        self.away = away
        self._token, self._token_file = token, token_file
        self._tls: ssl.SSLContext | None = None
        if self.url.startswith("https:"):
            try:
                self._tls = ssl.create_default_context(cafile=ca_file)
            except OSError as error:
                raise SandboxError(f"the certificate in {ca_file} is of no use: {error}") from error
        self._client = Client(
            base_url=self.url,
            verify=self._tls or False,
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=16),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def create(self, pod: Mapping[str, Any]) -> None:
        """One that is there already is ours, from a call whose answer was lost."""
        await self._call("POST", "pods", body=pod, accept=[409])

    async def pod(self, name: str) -> dict[str, Any] | None:
        """``None`` where there is no such pod."""
        reply = await self._call("GET", f"pods/{name}", accept=[404])
        found: dict[str, Any] = reply.json()
        return found if reply.status_code == 200 else None

    async def pods(self, selector: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        following = ""
        while True:
            params = {"labelSelector": selector, "limit": "200"}
            if following:
                params["continue"] = following
            page = (await self._call("GET", "pods", params=params)).json()
            found += page["items"]
            following = page["metadata"].get("continue", "")
            if not following:
                return found

    async def events(self, name: str) -> list[str]:
        """What the cluster says happened to a pod, oldest first."""
        params = {"fieldSelector": f"involvedObject.kind=Pod,involvedObject.name={name}"}
        reply = await self._call("GET", "events", params=params, accept=[403])
        items = reply.json().get("items", []) if reply.status_code == 200 else []
        return [f"{item.get('reason')}: {item.get('message')}" for item in items]

    async def delete(self, name: str) -> None:
        """One that is not there is no error."""
        await self._call("DELETE", f"pods/{name}", accept=[404])

    async def execute(
        self,
        name: str,
        container: str,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        patience: float = 20.0,
    ) -> Executed:
        """Run a command to its end; where the connection breaks meanwhile, once more. It is given
        ``stdin``, but no end of file: it has to know how much to read.

        Raises: ``SandboxLost`` (the pod does not run, or no answer), ``SandboxError``."""
        flags = [
            ("container", container),
            ("stdin", "true"),
            ("stdout", "true"),
            ("stderr", "true"),
        ]
        query = urlencode([*flags, *(("command", part) for part in command)])
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}/exec?{query}"
        try:
            async for attempt in self._attempts():
                with attempt:
                    try:
                        return await self._execute_once(path, stdin, patience)
                    except _Away:
                        await self.check_running(name)
                        raise
        except _Away as error:
            raise SandboxLost(f"{self.url} does not answer: {error}") from error
        raise AssertionError("unreachable")

    async def _execute_once(self, path: str, stdin: bytes, patience: float) -> Executed:
        try:
            async with (
                asyncio.timeout(2 * patience),
                connect(
                    "ws" + self.url.removeprefix("http") + path,
                    subprotocols=PROTOCOLS,
                    additional_headers=self._headers(),
                    ssl=self._tls,
                    proxy=None,
                    max_size=2**24,
                    open_timeout=patience,
                    close_timeout=1,
                    ping_interval=None,
                ) as connection,
            ):
                return await _talk(connection, stdin)
        except InvalidStatus as error:
            status = error.response.status_code
            said = _reason(status, bytes(error.response.body or b""))
            if status in (401, 403):
                raise SandboxError(f"{self.url} does not let us execute: {said}") from error
            raise _Away(said) from error
        except (ConnectionClosed, InvalidHandshake, OSError, TimeoutError) as error:
            raise _Away(str(error) or type(error).__name__) from error

    async def check_running(self, name: str) -> None:
        """Raises: ``SandboxLost``, with the reason that the cluster gives."""
        pod = await self.pod(name)
        if pod is None:
            raise SandboxLost(f"pod {name} is gone")
        if pod["metadata"].get("deletionTimestamp"):
            raise SandboxLost(f"pod {name} is being removed")
        if ended := why_ended(pod):
            raise SandboxLost(f"pod {name} ended: {ended}")

    def _headers(self) -> dict[str, str]:
        token = self._token
        if self._token_file is not None:
            try:
                token = self._token_file.read_text().strip()  # it is changed every hour
            except OSError as error:
                raise SandboxError(f"no token in {self._token_file}: {error}") from error
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _attempts(self) -> Any:
        return stamina.retry_context(
            on=_Away, attempts=None, timeout=self.away, wait_initial=0.05, wait_max=1.0
        )

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        accept: Collection[int] = (),
    ) -> httpx.Response:
        """Raises: ``SandboxLost`` (no answer), ``SandboxError`` (refused)."""
        try:
            async for attempt in self._attempts():
                with attempt:
                    try:
                        reply = await self._client.request(
                            method,
                            f"/api/v1/namespaces/{self.namespace}/{path}",
                            params=params,
                            json=body,
                            headers=self._headers(),
                            timeout=httpx.Timeout(10.0, read=30.0),
                        )
                    except httpx.TransportError as error:
                        raise _Away(str(error) or type(error).__name__) from error
                    if reply.status_code in (429, 500, 502, 503, 504):
                        raise _Away(_reason(reply.status_code, reply.content))
        except _Away as error:
            raise SandboxLost(f"{self.url} does not answer: {error}") from error
        if reply.status_code >= 300 and reply.status_code not in accept:
            said = _reason(reply.status_code, reply.content)
            raise SandboxError(f"{self.url} refused {method} {path}: {said}")
        return reply


async def _talk(connection: ClientConnection, stdin: bytes) -> Executed:
    outputs = {STDOUT: bytearray(), STDERR: bytearray()}
    for start in range(0, len(stdin), 2**16):
        await connection.send(bytes([STDIN]) + stdin[start : start + 2**16])
    async for message in connection:
        data = message.encode() if isinstance(message, str) else message
        if not data:
            continue
        channel, rest = data[0], data[1:]
        if channel == ERROR:
            code = _exit_code(rest)
            if code > 128:
                raise _Away(f"it was killed ({code})")  # alone, or with all of its pod
            return Executed(code, bytes(outputs[STDOUT]), bytes(outputs[STDERR]))
        if channel in outputs:
            outputs[channel] += rest
            if sum(map(len, outputs.values())) > MAX_OUTPUT:
                raise SandboxError(f"a command printed more than {MAX_OUTPUT:,} bytes")
    raise _Away("the connection ended before the command did")


def _exit_code(status: bytes) -> int:
    """
    >>> _exit_code(b'{"status":"Success"}')
    0
    >>> _exit_code(b'{"status":"Failure","reason":"NonZeroExitCode",'
    ...            b'"details":{"causes":[{"reason":"ExitCode","message":"3"}]}}')
    3
    """
    said = _object(status)
    if said.get("status") == "Success":
        return 0
    for cause in (said.get("details") or {}).get("causes") or []:
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise _Away(str(said.get("message") or status[:300]))


def why_ended(pod: Mapping[str, Any]) -> str:
    """Why a pod does not run any more; empty where it does, or will."""
    status = pod.get("status", {})
    if status.get("phase") not in ("Failed", "Succeeded"):
        return ""
    said = [status.get("reason"), status.get("message")]
    for container in status.get("containerStatuses") or []:
        ended = container.get("state", {}).get("terminated") or {}
        said += [ended.get("reason"), ended.get("message")]
    return ": ".join(str(part) for part in said if part) or str(status["phase"])


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _reason(status: int, body: bytes) -> str:
    said = _object(body).get("message") or body[:300].decode(errors="replace").strip()
    return f"{status} {said}"
