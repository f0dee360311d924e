"""Connections to models that are served elsewhere. Knows nothing of what is asked or answered."""

from __future__ import annotations

import re
from typing import Protocol

import httpx
from pydantic import SecretStr

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


def client_of(endpoint: Endpoint) -> httpx.AsyncClient:
    """A client for that model alone. The caller closes it."""
    headers = {}
    if endpoint.key is not None:
        headers["Authorization"] = f"Bearer {endpoint.key.get_secret_value()}"
    return httpx.AsyncClient(
        base_url=endpoint.url.rstrip("/"),
        headers=headers,
        timeout=httpx.Timeout(endpoint.timeout, connect=10.0),
        limits=httpx.Limits(max_connections=endpoint.max_connections, keepalive_expiry=KEPT_FOR),
    )
