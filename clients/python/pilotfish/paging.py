"""Lists that come in pages. Knows no transport."""

from __future__ import annotations

from typing import Generic

import httpx

from pilotfish.answers import parsed
from pilotfish.api import Item, Page
from pilotfish.calls import Call

_LARGEST = 200
"""Items of a page at most, as the service gives them."""


class Pages(Generic[Item]):
    """A walk over the pages of a list, newest first, until ``limit`` items were given; ``None`` is
    all of them."""

    def __init__(self, kind: type[Page[Item]], path: str, limit: int | None) -> None:
        self._kind, self._path, self._left = kind, path, limit
        self._after: str | None = None
        self._more = True

    def next_call(self) -> Call | None:
        """What to ask for next; ``None`` at the end."""
        if not self._more or (self._left is not None and self._left < 1):
            return None
        limit = None if self._left is None else min(self._left, _LARGEST)
        return Call("GET", self._path, after=self._after, limit=limit)

    def items(self, response: httpx.Response) -> list[Item]:
        """What that page has."""
        page = parsed(self._kind, response)
        self._after, self._more = page.next, page.next is not None
        found = page.data if self._left is None else page.data[: self._left]
        if self._left is not None:
            self._left -= len(found)
        return found
