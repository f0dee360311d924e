"""Connections to models that are served elsewhere. Knows nothing of what is asked or answered."""

from __future__ import annotations

import re
from typing import Protocol

import httpx
from pydantic import SecretStr

from service.transport import Transport

_NOTHING = httpx.ByteStream(b"")
TOO_LONG = re.compile(r"context length|context_length|max_model_len|too many tokens", re.I)
"""In what a served model says of a request that does not fit it."""
KEPT_FOR = 2.0
"""Seconds for which an idle connection is used again. Servers close theirs after 5 and more; one
that is closed while a request is on its way loses it."""


class Endpoint(Protocol):
    """What the settings of any served model say."""

    url: str
    key: SecretStr | None
    timeout: float
    max_connections: int


class Replicated(Endpoint, Protocol):
    """One that may be served by several servers."""

    replicas: list[str]
    """Of the others: the same model, under the same name."""


def addresses(endpoint: Replicated) -> list[str]:
    return list(dict.fromkeys([endpoint.url, *endpoint.replicas]))


def client_of(endpoint: Endpoint, url: str | None = None) -> httpx.AsyncClient:
    """A client for that model alone, at ``url`` where it is one of several. The caller closes
    it."""
    headers = {}
    if endpoint.key is not None:
        headers["Authorization"] = f"Bearer {endpoint.key.get_secret_value()}"
    limits = httpx.Limits(max_connections=endpoint.max_connections, keepalive_expiry=KEPT_FOR)
    return httpx.AsyncClient(
        base_url=(url or endpoint.url).rstrip("/"),
        headers=headers,
        timeout=httpx.Timeout(endpoint.timeout, connect=10.0),
        transport=Transport(limits),
    )


def unbind(response: httpx.Response) -> None:
    """Of a response that is read or closed: httpx's stream and response hold each other, and both
    would stay until they are collected."""
    response.stream = _NOTHING
