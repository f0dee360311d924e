"""A peer, as the benchmark sees it: something that is asked for a step. Knows no peer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import httpx

Body = dict[str, Any]


class Failed(Exception):
    """What a peer said instead of an answer."""


class Peer(NamedTuple):
    """``ask`` gives a chat completion for a request of OpenAI's, whose model is left to it. Raises
    ``Failed``."""

    name: str
    ask: Callable[[Body], Awaitable[Body]]


def at(url: str, client: httpx.AsyncClient, fields: Body) -> Callable[[Body], Awaitable[Body]]:
    """Asks an endpoint, with ``fields`` of its own."""

    async def ask(body: Body) -> Body:
        answer = await client.post(f"{url}/v1/chat/completions", json=body | fields)
        if answer.status_code != 200:
            raise Failed(f"{answer.status_code} {answer.text[:100]}")
        return dict(answer.json())

    return ask
