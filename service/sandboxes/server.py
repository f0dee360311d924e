"""One SWE-ReX server as we speak to it: requests, retries, errors. Knows nothing of tasks and of
what a command means.

Not the stock client: that one opens a connection for every call, gives up after 300 seconds
whatever the command's own limit is, and prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import httpx
import stamina

from search.errors import SandboxError, SandboxLost

TIMED_OUT = "swerex.exceptions.CommandTimeoutError"
NOT_REACHED = (502, 503, 504)
"""What a proxy answers that did not get through to the server."""
UNKNOWN = (400, 404, 410)
"""What one answers that knows of no such server, or of none that runs (Daytona's: 400)."""


class Reply(NamedTuple):
    """What the server answered: the fields, or the exception that it transferred."""

    fields: dict[str, Any]
    failure: str = ""
    """Class of the transferred exception; empty where there is none."""
    message: str = ""


class Server(Protocol):
    """Whatever answers the requests of the SWE-ReX protocol."""

    async def is_alive(self, patience: float = 10.0) -> None:
        """Raises: ``SandboxLost`` if it is not."""
        ...

    async def post(
        self, route: str, body: dict[str, Any], *, patience: float, request_id: str = ""
    ) -> Reply:
        """Raises: ``SandboxLost`` (no answer within ``patience`` seconds of silence),
        ``SandboxError`` (refused)."""
        ...


class RexServer:
    """Base URL and token of one server, over a client that may be shared. ``headers`` are for what
    stands before it; ``attempts`` counts how often a call is tried where the connection fails:
    every call of ours may be repeated."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: str,
        *,
        token: str = "",
        headers: Mapping[str, str] = {},
        attempts: int = 1,
    ) -> None:
        self.client = client
        self.url = url.rstrip("/")
        self.attempts = attempts
        self._headers = {**headers, **({"X-API-Key": token} if token else {})}

    async def is_alive(self, patience: float = 10.0) -> None:
        """Raises: ``SandboxLost`` if it is not."""
        reply = await self._call("GET", "is_alive", {}, patience, "")
        if not reply.fields.get("is_alive"):
            raise SandboxLost(f"{self.url} is not alive: {reply.fields.get('message') or reply}")

    async def post(
        self, route: str, body: dict[str, Any], *, patience: float, request_id: str = ""
    ) -> Reply:
        """Raises: ``SandboxLost`` (no answer within ``patience`` seconds of silence),
        ``SandboxError`` (refused)."""
        return await self._call("POST", route, body, patience, request_id)

    async def _call(
        self, method: str, route: str, body: dict[str, Any], patience: float, request_id: str
    ) -> Reply:
        headers = {**self._headers, **({"X-Request-ID": request_id} if request_id else {})}
        timeout = httpx.Timeout(10.0, read=patience)
        try:
            async for attempt in stamina.retry_context(
                on=httpx.TransportError, attempts=self.attempts, wait_initial=0.1, wait_max=2.0
            ):
                with attempt:
                    response = await self.client.request(
                        method,
                        f"{self.url}/{route}",
                        json=body if method == "POST" else None,
                        headers=headers,
                        timeout=timeout,
                    )
                    if response.status_code in NOT_REACHED:
                        said = f"{response.status_code} {response.text[:200]!r}"
                        raise httpx.RemoteProtocolError(said, request=response.request)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise SandboxLost(f"{self.url} does not answer: {reason}") from error
        return self._reply(route, response)

    def _reply(self, route: str, response: httpx.Response) -> Reply:
        if response.status_code in UNKNOWN:
            raise SandboxLost(f"{self.url} is gone: {response.text[:200]!r}")
        try:
            fields = response.json()
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            text = response.text[:200]
            raise SandboxError(f"{self.url}/{route} answered {response.status_code}: {text!r}")
        if response.status_code == 511:
            failure = fields.get("swerexception") or {}
            return Reply(
                fields=failure.get("extra_info") or {},
                failure=failure.get("class_path") or "unknown",
                message=failure.get("message") or "",
            )
        if response.status_code != 200:
            detail = fields.get("detail", fields)
            raise SandboxError(f"{self.url}/{route} answered {response.status_code}: {detail}")
        return Reply(fields)
