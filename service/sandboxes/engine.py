"""A Docker or Podman engine as we speak to it: the few calls of Docker's HTTP API that sandboxes
need. Knows nothing of tasks, and of what a command means.

Every call may be repeated: containers are named by us, and what is executed in them twice must be
made to do no harm. So a call that the engine did not answer, because it was restarted say, is tried
again while ``away`` seconds last.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import secrets
import shlex
import ssl
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self
from urllib.parse import urlsplit

import httpcore
import httpx
import stamina

from search.errors import SandboxError, SandboxLost
from service.http_client import Client

DEFAULT_HOST = "unix:///var/run/docker.sock"
NEWEST_API = (1, 44)
"""The newest version of the API that this was written for; an older engine is spoken to in its."""
END = b"\n=exit "
"""Comes last in what a command prints, with its exit code: an engine that goes away ends the stream
just as the end of the command does."""
SHELL = """
while read -r mark size; do
    eval "$(head -c "$size")" </dev/null
    code=$?
    printf '\\n=exit %s ' "$mark" >&2
    printf '\\n=exit %s %d\\n' "$mark" "$code"
done
"""
IDLE_SHELLS = 4
"""How many are kept for the next command, of each sandbox."""
MAX_OUTPUT = 64 * 2**20
"""Bytes of all that one command may print."""
INTERRUPTIONS = 10
"""How often one command may be killed, or refused, before that is its result."""
WRAPPED = '"$@"; printf "\\n=exit %d" "$?"'


class Executed(NamedTuple):
    """What one command in a container gave."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class _Interrupted(Exception):
    """The stream of a command ended before the command did, or it was killed."""


def engine_host(host: str | None) -> str:
    """The address to use: the one that is set, else ``DOCKER_HOST``, else Docker's own."""
    return host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST


def check_host(host: str) -> str:
    """Raises: ``ValueError`` if it is no address that we can speak to."""
    parts = urlsplit(host)
    if parts.scheme == "unix" and parts.path:
        return host
    if parts.scheme in ("tcp", "http", "https") and parts.hostname:
        return host
    raise ValueError(
        f"{host!r} is no engine's address: unix:///PATH, tcp://HOST:PORT or https://HOST:PORT;"
        " one behind SSH can be had by a tunnel (ssh -L)"
    )


class Engine:
    """One engine. An async context manager: it holds the connections."""

    def __init__(
        self, host: str | None = None, *, certificates: Path | None = None, away: float = 10.0
    ) -> None:
        host = engine_host(host)
        try:
            parts = urlsplit(check_host(host))
        except ValueError as error:
            raise SandboxError(str(error)) from error
        if certificates is None and os.environ.get("DOCKER_TLS_VERIFY"):
            certificates = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
        self.url = host
        self.away = away
        secure = parts.scheme == "https" or (parts.scheme == "tcp" and certificates is not None)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=16)
        if parts.scheme == "unix":
            transport = httpx.AsyncHTTPTransport(uds=parts.path, verify=False, limits=limits)
            base = "http://engine"
        else:
            verify = _context(certificates) if secure else False
            transport = httpx.AsyncHTTPTransport(verify=verify, limits=limits)
            base = f"{'https' if secure else 'http'}://{parts.netloc}"
        self._client = Client(transport=transport, base_url=base, trust_env=False)
        self._version = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    # ---- images

    async def has_image(self, image: str) -> bool:
        reply = await self._call("GET", f"/images/{image}/json", accept=[404])
        return reply.status_code == 200

    async def pull(
        self, image: str, *, registry_auth: str = "", patience: float = 300.0
    ) -> AsyncIterator[dict[str, Any]]:
        """What the engine says while it pulls. Raises: ``SandboxError``, also where it says nothing
        for ``patience`` seconds."""
        name, tag = image_and_tag(image)
        headers = {"X-Registry-Auth": registry_auth} if registry_auth else {}
        try:
            path = await self._path("/images/create")
            async with self._client.stream(
                "POST",
                path,
                params={"fromImage": name, "tag": tag},
                headers=headers,
                timeout=httpx.Timeout(10.0, read=patience),
            ) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise SandboxError(f"image {image} cannot be pulled: {_reason(response)}")
                async for line in response.aiter_lines():
                    said = _object(line)
                    if failure := said.get("error"):
                        raise SandboxError(f"image {image} cannot be pulled: {failure}")
                    yield said
        except httpx.TransportError as error:
            raise SandboxError(f"image {image} cannot be pulled: {_name(error)}") from error

    # ---- containers

    async def create(self, name: str, body: Mapping[str, Any]) -> bool:
        """Whether it was made; ``False`` where its image is not there."""
        reply = await self._call(
            "POST", "/containers/create", params={"name": name}, body=body, accept=[404, 409]
        )
        if reply.status_code == 409 and await self.inspect(name) is None:
            raise SandboxError(f"{self.url} cannot make container {name}: {_reason(reply)}")
        return reply.status_code != 404

    async def start(self, name: str) -> None:
        """Raises: ``SandboxError`` with the engine's reason, ``SandboxLost`` if it is not there."""
        await self._call("POST", f"/containers/{name}/start", accept=[304], lost=name)

    async def inspect(self, name: str) -> dict[str, Any] | None:
        """``None`` where there is no such container."""
        reply = await self._call("GET", f"/containers/{name}/json", accept=[404])
        return _object(reply.text) if reply.status_code == 200 else None

    async def has_files(self, name: str, folder: str) -> bool:
        """Whether anything lies in the folder, file systems in memory left aside."""
        path = await self._path(f"/containers/{name}/archive")
        beginning = b""
        try:
            async with self._client.stream(
                "GET", path, params={"path": folder}, timeout=30.0
            ) as reply:
                if reply.status_code == 404:
                    return False
                async for part in reply.aiter_raw():
                    beginning += part
                    if len(beginning) > 2**14:
                        break
        except httpx.TransportError as error:
            raise SandboxLost(f"{self.url} does not answer: {_name(error)}") from error
        found = 0
        with contextlib.suppress(tarfile.ReadError):
            archive = tarfile.open(fileobj=io.BytesIO(beginning), mode="r|")  # noqa: SIM115
            while found < 2 and archive.next() is not None:
                found += 1
        return found > 1

    async def containers(self, label: str) -> list[dict[str, Any]]:
        """All that carry the label (``NAME=VALUE``), whatever they do."""
        filters = json.dumps({"label": [label]})
        reply = await self._call("GET", "/containers/json", params={"all": "1", "filters": filters})
        found: list[dict[str, Any]] = reply.json()
        return found

    async def remove(self, name: str) -> None:
        """Kill and remove. One that is not there, or being removed already, is no error."""
        await self._call(
            "DELETE",
            f"/containers/{name}",
            params={"force": "1", "v": "1"},
            accept=[404, 409],
            patience=60.0,
        )

    async def execute(
        self,
        name: str,
        command: Sequence[str],
        *,
        user: str = "",
        stdin: bytes = b"",
        patience: float = 20.0,
    ) -> Executed:
        """Run a command to its end; where the engine goes away meanwhile, once more. It is given
        ``stdin``, but no end of file: it has to know how much to read.

        Raises: ``SandboxLost`` (the container does not run, or no answer within ``patience``
        seconds of silence), ``SandboxError``."""

        async def once() -> Executed:
            wrapped = ["sh", "-c", WRAPPED, "sh", *command]
            opened = await self._open(name, wrapped, user, patience)
            try:
                stdout, stderr = await _talk(_stream(opened), stdin, patience)
            finally:
                await opened.aclose()
            output, end, code = stdout.rpartition(END)
            if not end or not code.isdigit() or int(code) > 128:
                raise await self._cut_off(name, stderr or stdout)
            return Executed(int(code), output, stderr)

        return await self._insist(name, once)

    async def ask(
        self, name: str, shells: list[Shell], command: Sequence[str], *, user: str, patience: float
    ) -> Executed:
        """As ``execute``, by one of ``shells``, or by a new one, which is then among them: that is
        twenty times as fast as having the engine start the command."""

        async def once() -> Executed:
            shell = shells.pop() if shells else None
            if shell is None:
                shell = Shell(await self._open(name, ["sh", "-c", SHELL], user, patience))
            try:
                done = await shell.execute(command, patience)
                if done is None or done.exit_code > 128:
                    raise await self._cut_off(name, b"it was killed, or its shell was")
            except BaseException:
                await shell.close()
                raise
            if len(shells) < IDLE_SHELLS:
                shells.append(shell)
            else:
                await shell.close()
            return done

        return await self._insist(name, once)

    async def _insist(self, name: str, once: Callable[[], Awaitable[Executed]]) -> Executed:
        try:
            async for attempt in self._attempts():
                with attempt:
                    return await once()
        except httpx.TransportError as error:
            raise SandboxLost(f"{self.url} does not answer: {_name(error)}") from error
        except _Interrupted as error:
            raise SandboxError(f"a command in container {name} was interrupted: {error}") from error
        raise AssertionError("unreachable")

    async def _open(
        self, name: str, command: Sequence[str], user: str, patience: float
    ) -> httpx.Response:
        """Start it; the answer has the connection to it. Whoever closes that ends its input."""
        body = {
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": False,
            "User": user,
            "Cmd": command,
        }
        path = await self._path(f"/containers/{name}/exec")
        timeout = httpx.Timeout(10.0, read=patience)
        made = await self._client.post(path, json=body, timeout=timeout)
        if made.status_code != 201 and not await self._runs(name):
            raise SandboxLost(f"container {name} does not run")
        self._check(made, ())
        start = self._client.build_request(
            "POST",
            await self._path(f"/exec/{_object(made.text)['Id']}/start"),
            json={"Detach": False, "Tty": False},
            headers={"Connection": "Upgrade", "Upgrade": "tcp"},
            timeout=timeout,
        )
        response = await self._client.send(start, stream=True)
        if response.status_code != 101:
            try:
                await response.aread()
            finally:
                await response.aclose()
            raise await self._cut_off(name, _reason(response).encode())
        return response

    async def _cut_off(self, name: str, said: bytes) -> Exception:
        """Why a command had no end."""
        if not await self._runs(name):
            return SandboxLost(f"container {name} does not run")
        return _Interrupted(said[-500:].decode(errors="replace").strip())

    async def _runs(self, name: str) -> bool:
        found = await self.inspect(name)
        return found is not None and bool(found["State"]["Running"])

    # ---- the connection

    def _attempts(self) -> AsyncIterator[stamina.Attempt]:
        interruptions = 0

        def again(error: Exception) -> bool:
            nonlocal interruptions
            if isinstance(error, _Interrupted):
                interruptions += 1
                return interruptions < INTERRUPTIONS
            # One that was there and is silent has had its time.
            silent = isinstance(error, httpx.ReadTimeout)
            return isinstance(error, httpx.TransportError) and not silent

        return stamina.retry_context(
            on=again,
            attempts=None,
            timeout=self.away,
            wait_initial=0.05,
            wait_max=1.0,
            wait_jitter=0.1,
        ).__aiter__()

    async def _path(self, path: str) -> str:
        if not self._version:
            response = await self._client.get("/_ping", timeout=10.0)
            theirs = _numbers(response.headers.get("Api-Version", ""))
            if response.status_code != 200 or not theirs:
                raise SandboxError(f"{self.url} answers, but not as Docker or Podman does")
            self._version = ".".join(map(str, min(theirs, NEWEST_API)))
        return f"/v{self._version}{path}"

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        accept: Collection[int] = (),
        patience: float = 30.0,
        lost: str = "",
    ) -> httpx.Response:
        """Raises: ``SandboxLost`` (no answer, or ``lost`` names a container that is not there or
        does not run), ``SandboxError`` (refused; but for the states of ``accept``)."""
        try:
            async for attempt in self._attempts():
                with attempt:
                    response = await self._client.request(
                        method,
                        await self._path(path),
                        params=params,
                        json=body,
                        timeout=httpx.Timeout(10.0, read=patience),
                    )
        except httpx.TransportError as error:
            raise SandboxLost(f"{self.url} does not answer: {_name(error)}") from error
        self._check(response, accept, lost=lost)
        return response

    def _check(self, response: httpx.Response, accept: Collection[int], *, lost: str = "") -> None:
        status = response.status_code
        if status < 300 or status in accept:
            return
        if lost and status in (404, 409):
            raise SandboxLost(f"container {lost} is gone, or does not run: {_reason(response)}")
        raise SandboxError(f"{self.url} answered {status}: {_reason(response)}")


class _Stream(Protocol):
    """What httpx gives of a connection that was handed over to us."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes: ...

    async def write(self, buffer: bytes, timeout: float | None = None) -> None: ...


class Shell:
    """A shell in a container that takes one command after the other. It ends with its input, that
    is when it is closed, or we are gone."""

    def __init__(self, opened: httpx.Response) -> None:
        self._opened = opened
        self._stream = _stream(opened)

    async def execute(self, command: Sequence[str], patience: float) -> Executed | None:
        """``None`` where it ended before the command did."""
        mark = secrets.token_hex(8)
        end = b"\n=exit " + mark.encode() + b" "
        text = shlex.join(command).encode()
        frames = _Frames()

        def whole() -> bool:
            said = frames.outputs[1].rpartition(end)[2]
            return said.endswith(b"\n") and end in frames.outputs[1] and end in frames.outputs[2]

        request = f"{mark} {len(text)}\n".encode() + text
        await _exchange(self._stream, request, frames, whole, patience)
        if not whole():
            return None
        stdout, _, code = bytes(frames.outputs[1]).rpartition(end)
        return Executed(int(code), stdout, bytes(frames.outputs[2]).rpartition(end)[0])

    async def close(self) -> None:
        await self._opened.aclose()


class _Frames:
    """What comes in Docker's frames, as far as it is whole: stdout is 1, stderr 2."""

    def __init__(self) -> None:
        self.outputs = {1: bytearray(), 2: bytearray()}
        self.size = 0
        self._rest = bytearray()

    def add(self, part: bytes) -> None:
        self.size += len(part)
        rest = self._rest
        rest += part
        while len(rest) >= 8 and len(rest) >= (end := 8 + int.from_bytes(rest[4:8], "big")):
            if rest[0] in self.outputs:
                self.outputs[rest[0]] += rest[8:end]
            del rest[:end]


async def _talk(stream: _Stream, stdin: bytes, patience: float) -> tuple[bytes, bytes]:
    """Send ``stdin`` and read all that comes: stdout and stderr."""
    frames = _Frames()
    await _exchange(stream, stdin, frames, lambda: False, patience)
    return bytes(frames.outputs[1]), bytes(frames.outputs[2])


async def _exchange(
    stream: _Stream, sent: bytes, frames: _Frames, enough: Callable[[], bool], patience: float
) -> None:
    """Send, and read until that is enough or the end. Raises: as httpx does."""
    try:
        # An image's programs may be the agent's: no endless output and no trickle is waited for.
        async with asyncio.timeout(2 * patience):
            if sent:
                await stream.write(sent, timeout=patience)
            while not enough() and (part := await stream.read(2**16, timeout=patience)):
                frames.add(part)
                if frames.size > MAX_OUTPUT:
                    raise SandboxError(f"a command printed more than {MAX_OUTPUT:,} bytes")
    except TimeoutError as error:
        raise httpx.ReadTimeout(f"no end after {2 * patience:g} s") from error
    except httpcore.TimeoutException as error:
        raise httpx.ReadTimeout(f"silent for {patience:g} s") from error
    except httpcore.NetworkError as error:
        raise httpx.ReadError(_name(error)) from error


def _stream(opened: httpx.Response) -> _Stream:
    stream: _Stream = opened.extensions["network_stream"]
    return stream


def image_and_tag(image: str) -> tuple[str, str]:
    """As the API wants them. Without a tag it would pull every one.

    >>> image_and_tag("python"), image_and_tag("localhost:5000/a/b:c")
    (('python', 'latest'), ('localhost:5000/a/b', 'c'))
    >>> image_and_tag("python@sha256:ab")
    ('python', 'sha256:ab')
    """
    name, at, digest = image.partition("@")
    if at:
        return name, digest
    name, colon, tag = image.rpartition(":")
    if not colon or "/" in tag:
        return image, "latest"
    return name, tag


def _context(certificates: Path | None) -> ssl.SSLContext:
    """Of Docker's three files: ``ca.pem``, and for who has to show who they are ``cert.pem`` and
    ``key.pem``."""
    if certificates is None:
        return ssl.create_default_context()
    try:
        authority = certificates / "ca.pem"
        context = ssl.create_default_context(cafile=authority if authority.exists() else None)
        if (certificates / "cert.pem").exists():
            context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    except OSError as error:
        raise SandboxError(f"the certificates in {certificates} are of no use: {error}") from error
    return context


def _numbers(version: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in version.split("."))
    except ValueError:
        return ()


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _reason(response: httpx.Response) -> str:
    said = _object(response.text)
    return str(said.get("message") or response.text[:300].strip() or response.status_code)


def _name(error: Exception) -> str:
    return str(error) or type(error).__name__
