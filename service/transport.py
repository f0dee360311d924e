"""httpx's requests over aiohttp's connections. Knows nothing of what is asked.

httpcore, which is httpx's own, counts a connection as taken for ever where its caller is cancelled
at the wrong moment: while a response is being closed, or between a connection's opening and its
first request. It also looks through all connections for each request, and parses in Python.
aiohttp's connections are made and freed without a moment that can be cancelled between.

The package httpx-aiohttp (0.2) does the same, but keeps cookies, and calls every connection that
breaks a ``ConnectTimeout``: what had been generated would be asked for again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from urllib.request import getproxies

import aiohttp
import httpx
from yarl import URL


class Transport(httpx.AsyncBaseTransport):
    """Of ``limits``, how many connections there are and how long idle ones are kept. What is sent
    is sent whole: bodies that are made as they are sent are not for it."""

    def __init__(self, limits: httpx.Limits) -> None:
        self._limits = limits
        self._opened: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """Opened when it is first asked for: it belongs to the event loop of then."""
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._limits.max_connections or 0,
                    keepalive_timeout=self._limits.keepalive_expiry,
                    ssl=httpx.create_ssl_context(),
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # httpx does
                trust_env=bool(getproxies()),  # looking for them costs a thread a request
            )
        return self._opened

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        seconds = request.extensions["timeout"]
        with _as_httpx(request):
            response = await self.session.request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=request.headers.multi_items(),
                data=request.content or None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=seconds["pool"],
                    sock_connect=seconds["connect"],
                    sock_read=seconds["read"],
                ),
            )
        return httpx.Response(
            response.status,
            headers=list(response.raw_headers),
            stream=_Content(response, request),
            extensions={"http_version": b"HTTP/1.1"},
        )

    async def aclose(self) -> None:
        if self._opened is not None:
            await self._opened.close()


class _Content(httpx.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse, request: httpx.Request) -> None:
        self._response, self._request = response, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx(self._request):
            async for piece in self._response.content.iter_any():
                yield piece

    async def aclose(self) -> None:
        """A connection whose answer was read whole has been given back by then; another is
        closed, upon which its server stops."""
        self._response.close()


@contextmanager
def _as_httpx(request: httpx.Request) -> Iterator[None]:
    """aiohttp's errors as those that httpx would have raised."""
    try:
        yield
    except aiohttp.ClientConnectorError as error:
        raise httpx.ConnectError(str(error), request=request) from error
    except aiohttp.ConnectionTimeoutError as error:
        raise httpx.ConnectTimeout(str(error), request=request) from error
    except aiohttp.ServerTimeoutError as error:
        raise httpx.ReadTimeout(str(error), request=request) from error
    except aiohttp.ClientOSError as error:
        raise httpx.ReadError(str(error), request=request) from error
    except aiohttp.InvalidURL as error:
        raise httpx.UnsupportedProtocol(f"no URL: {error}", request=request) from error
    except aiohttp.ClientError as error:
        raise httpx.RemoteProtocolError(str(error), request=request) from error
