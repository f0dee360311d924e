"""When a call is sent again, and after how long. Knows no route."""

from __future__ import annotations

import random
import time
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

import httpx

from pilotfish.calls import Call
from pilotfish.errors import ApiStatusError, ConnectionFailed, PilotfishError, RequestTimeout

_PASSING = frozenset({408, 429, 502, 503, 504})
"""Statuses of a service that is away, or has too much to do."""
_LONGEST = 30.0
"""Seconds that a service may ask to wait."""


def failure(url: str, error: httpx.HTTPError) -> ConnectionFailed | RequestTimeout:
    """What a caller is told of a request without an answer."""
    if isinstance(error, httpx.TimeoutException):
        return RequestTimeout(f"{url} did not answer in time")
    return ConnectionFailed(
        f"cannot reach {url}: {error or type(error).__name__}. Is the service up? "
        "Set PILOTFISH_URL to where it is."
    )


def asked_pause(response: httpx.Response) -> float | None:
    """Seconds that the service asks to wait, by ``Retry-After`` as a number or as a date."""
    asked = response.headers.get("retry-after", "")
    if asked.isdecimal():
        return float(asked)
    try:
        until = parsedate_to_datetime(asked)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=timezone.utc)
    return max(0.0, (until - datetime.now(timezone.utc)).total_seconds())


class Attempts:
    """The attempts of one call: the first and ``max_retries`` more."""

    def __init__(self, call: Call, url: str, max_retries: int) -> None:
        self._call, self._url, self._left = call, url, max_retries
        self._made = 0

    def after_failure(self, error: httpx.HTTPError) -> float:
        """Seconds before the next. Raises: ``ConnectionFailed`` or ``RequestTimeout`` where there
        is none. An answer that did not come in time is not asked for again: the work that it is
        may still be under way."""
        unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        lost = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
        pause = self._next(unsent or lost, None)
        if pause is None:
            raise failure(self._url, error) from error
        return pause

    def after_answer(self, response: httpx.Response) -> float | None:
        """Seconds before the next; ``None`` where the answer stands."""
        status = response.status_code
        return self._next(status in _PASSING or status >= 500, asked_pause(response))

    def _next(self, passing: bool, asked: float | None) -> float | None:
        if not (passing and self._call.repeatable and self._left > 0):
            return None
        self._left -= 1
        self._made += 1
        return _pause(self._made - 1, asked)


class Patience:
    """How long to go on asking for a run while the service is away: ``seconds`` from the first
    failure behind the last thing heard."""

    def __init__(self, url: str, seconds: float) -> None:
        self._url, self._seconds = url, seconds
        self.heard()

    def heard(self) -> None:
        self._attempt, self._until = 0, 0.0

    def pause(self, error: httpx.HTTPError | PilotfishError) -> float:
        """Seconds before the next attempt. Raises the error where another is of no use, or late."""
        known = failure(self._url, error) if isinstance(error, httpx.HTTPError) else error
        asked = None
        if isinstance(known, ApiStatusError):
            passing, asked = known.status in _PASSING, known.retry_after
        else:
            passing = isinstance(known, ConnectionFailed | RequestTimeout)
        now = time.monotonic()
        if self._attempt == 0:
            self._until = now + self._seconds
        if not passing or now >= self._until:
            raise known
        self._attempt += 1
        return min(_pause(self._attempt - 1, asked), self._until - now)


def _pause(attempt: int, asked: float | None) -> float:
    """Seconds before another attempt: what the service asks for, else 0.2, 0.4... 6.4, and up to
    a quarter more, so that many callers do not come back at once."""
    own = 0.2 * float(2 ** min(attempt, 5)) * random.uniform(1.0, 1.25)
    return own if asked is None else min(max(asked, 0.2), _LONGEST)
