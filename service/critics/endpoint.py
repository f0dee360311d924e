"""One endpoint that a critic asks: connections, retries, and what failing means to search. Knows
nothing of what is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import httpx

from search.errors import CriticError, CriticRefused, CriticTooLong
from service.endpoint import TOO_LONG, Endpoint, client_of, unbind
from service.retrying import retried

T = TypeVar("T")
_BROKEN = (httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
"""A connection that broke, as one does that the server had just closed: scoring changes nothing, so
it is asked again."""
_BUSY = (429, 502, 503, 504)
"""Answers of an endpoint that did not come to it."""
_REFUSED = (400, 413, 422)


class _Busy(Exception):
    """The endpoint did not take the request."""


class CriticAway(CriticError):
    """The endpoint was not reached, or took no request."""


class CriticEndpoint:
    """At most ``max_connections`` requests are under way; the others wait, and their time begins
    when they are sent."""

    def __init__(self, settings: Endpoint, url: str | None = None) -> None:
        """``url`` is where it is, for one of several."""
        self.settings, self.url = settings, url or settings.url
        self.client = client_of(settings, url)
        self._permits = asyncio.Semaphore(settings.max_connections)

    async def close(self) -> None:
        await self.client.aclose()

    async def ask(self, path: str, body: dict[str, Any], read: Callable[[Any], T]) -> T:
        """What ``read`` makes of the answer's JSON. Where it meets another form than it knows, it
        raises ``ValueError`` or its like.

        Raises: ``CriticTooLong``, ``CriticRefused``, ``CriticAway``, ``CriticError``.
        """
        url, timeout = self.url, self.settings.timeout
        try:
            async with self._permits, asyncio.timeout(timeout):
                response = await retried(
                    lambda: self._post(path, body), (*_BROKEN, _Busy), attempts=3, timeout=10.0
                )
        except (TimeoutError, httpx.ReadTimeout) as error:
            raise CriticError(f"no answer from {url} in {timeout:g} s") from error
        except (httpx.HTTPError, _Busy) as error:
            raise CriticAway(f"{url}: {str(error) or type(error).__name__}") from error
        except ValueError as error:  # NaN, or half of a surrogate pair
            raise CriticRefused(f"this cannot be sent as JSON: {error}") from error
        if response.status_code != 200:
            told = _message(response)
            if response.status_code in _REFUSED:
                raise CriticTooLong(told) if TOO_LONG.search(told) else CriticRefused(told)
            raise CriticError(f"{url} answers {response.status_code}: {told}")
        try:
            return read(response.json())
        except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as e:
            raise CriticError(f"not an answer of {path}: {response.text[:200]!r}") from e

    async def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        response = await self.client.post(path, json=body)
        unbind(response)
        if response.status_code in _BUSY:
            raise _Busy(f"it answers {response.status_code}: {_message(response)}")
        return response


def _message(response: httpx.Response) -> str:
    """What an error says, of OpenAI's shape or of any."""
    try:
        return str(response.json()["error"]["message"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return response.text[:300]
