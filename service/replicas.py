"""Which of the servers of one model is asked. Knows nothing of what they are asked."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")
AWAY = 5.0
"""Seconds for which one that was not there is not asked again, where there are others."""


class Replicas(Generic[T]):
    """``members`` by the address of each. Iterating gives them all.

    A session's calls go to one server, so that its prefix cache has what came before. Which, is
    the same in every process (rendezvous hashing); where one goes away only its sessions move.
    """

    def __init__(self, members: Mapping[str, T]) -> None:
        self._members = dict(members)
        self._away: dict[str, float] = {}
        self._turns = itertools.count()

    def __iter__(self) -> Iterator[T]:
        return iter(self._members.values())

    def of(self, session: str | None) -> tuple[str, T]:
        """Address and server for a call: without a session, of one after the other."""
        now = time.monotonic()
        there = [one for one in self._members if self._away.get(one, 0.0) <= now]
        there = there or list(self._members)
        if session is None:
            address = there[next(self._turns) % len(there)]
        else:
            address = max(there, key=lambda one: _weight(session, one))
        return address, self._members[address]

    def missed(self, address: str) -> None:
        """It did not take a call."""
        self._away[address] = time.monotonic() + AWAY


def _weight(session: str, address: str) -> bytes:
    text = f"{session}\0{address}".encode("utf-8", "replace")
    return hashlib.blake2b(text, digest_size=8).digest()
