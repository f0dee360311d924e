"""What all calls of a client have in common, apart from its connections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
from typing_extensions import TypedDict

from pilotfish.calls import Call, sendable

_SILENCE = 30.0
"""Seconds until a stream of events that says nothing is broken; the service speaks every 4."""
_CONNECTING = 10.0
"""Seconds until a connection stands."""


class MoreOptions(TypedDict, total=False):
    """What a client is made with beside the service's URL and key.

    ``timeout``: seconds of one request. ``max_retries``: further attempts of a call that may be
    repeated. ``patience``: seconds for which the service may be away while a run is followed.
    ``headers``: sent with every request, beside those that there are. ``idempotency_key``: of the
    run that this client makes.
    """

    timeout: float
    max_retries: int
    patience: float
    headers: Mapping[str, str]
    idempotency_key: str | None


class ClientOptions(MoreOptions, total=False):
    """What ``with_options`` takes; what is not given stays as it was."""

    key: str | None


@dataclass(frozen=True)
class Options:
    """``ClientOptions``, checked. Raises: ``BadRequest`` for what no header can hold."""

    key: str | None = None
    timeout: float = 600.0
    max_retries: int = 2
    patience: float = 30.0
    headers: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None

    def __post_init__(self) -> None:
        given = {"key": self.key, "idempotency_key": self.idempotency_key, **self.headers}
        for name, value in given.items():
            sendable(name, "headers")
            if value is not None:
                sendable(value, name)

    def changed(self, given: MoreOptions) -> Options:
        fields: dict[str, Any] = {**given}
        fields["headers"] = {**self.headers, **given.get("headers", {})}
        return replace(self, **fields)

    def headers_of(self, call: Call) -> dict[str, str]:
        authorization = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return {**authorization, **self.headers, **call.headers}

    @property
    def request_timeout(self) -> httpx.Timeout:
        return httpx.Timeout(self.timeout, connect=_CONNECTING)

    @property
    def stream_timeout(self) -> httpx.Timeout:
        """Of a stream that is never silent for long."""
        return httpx.Timeout(self.timeout, connect=_CONNECTING, read=_SILENCE)
