"""Answers: what a response holds, or the error that it is. Knows no transport."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from pilotfish.api import Event
from pilotfish.errors import UnexpectedAnswer, error_of
from pilotfish.retries import asked_pause
from pilotfish.trajectory import Trajectory

Answer = TypeVar("Answer", bound=BaseModel)


def checked(response: httpx.Response) -> httpx.Response:
    """The same response. Raises: ``ApiStatusError`` for one that is not a success."""
    if response.is_success:
        return response
    try:
        body = response.json()
    except (ValueError, RecursionError):
        body = None
    raise error_of(response.status_code, body, asked_pause(response))


def parsed(kind: type[Answer], response: httpx.Response) -> Answer:
    """Raises: ``UnexpectedAnswer`` for what is none of that kind."""
    return _read(kind, response.content, response)


class TrajectoryLines:
    """Trajectories, JSON lines, from the pieces of a body. Each of bytes, since lines of text also
    end at U+2028 and its like, which JSON holds bare."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._rest: list[bytes] = []

    def feed(self, piece: bytes) -> Iterator[Trajectory]:
        first, *others = piece.split(b"\n")
        self._rest.append(first)
        for other in others:
            yield from self.end()
            self._rest = [other]

    def end(self) -> Iterator[Trajectory]:
        """What is behind the last line's end."""
        if any(self._rest):
            yield _read(Trajectory, b"".join(self._rest), self._response)


class EventLines:
    """Server-sent events from the lines of a response."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._data: list[str] = []

    def feed(self, line: str) -> Event | None:
        if line.startswith("data:"):
            self._data.append(line[5:].strip())
        elif not line and self._data:
            text, self._data = "\n".join(self._data), []
            try:
                return Event.model_validate(json.loads(text))
            except (ValueError, RecursionError) as error:
                raise _unexpected(Event, self._response) from error
        return None


def _read(kind: type[Answer], content: bytes, response: httpx.Response) -> Answer:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise _unexpected(kind, response) from error


def _unexpected(kind: type[BaseModel], response: httpx.Response) -> UnexpectedAnswer:
    return UnexpectedAnswer(
        f"{response.url} answers something else than a {kind.__name__}. Is it this version of "
        "the service? Set PILOTFISH_URL to where that is."
    )
