"""The SDK: ``Pilotfish`` and ``AsyncPilotfish``. Knows the routes, and nothing of what they do.

Both speak through the same request builders, so that a route is written once. Calls that change
nothing are tried again when the service cannot be reached or is overloaded; making a run is not,
since it might be made twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from pilotfish.api import (
    FINAL_STATUSES,
    Event,
    LookaheadRequest,
    LookaheadResponse,
    RunList,
    RunRequest,
    RunView,
    ScoreRequest,
    ScoreResponse,
    SelectionRequest,
    SelectionResponse,
)
from pilotfish.errors import (
    BadRequest,
    ConnectionFailed,
    RequestTimeout,
    UnexpectedAnswer,
    error_of,
)
from pilotfish.messages import Message
from pilotfish.strategy import Lookahead, Strategy
from pilotfish.task import Task
from pilotfish.trajectory import Trajectory

Reply = TypeVar("Reply", bound=BaseModel)
Messages = Sequence[Message | dict[str, Any]]

DEFAULT_URL = "http://127.0.0.1:8700"
_RETRIED = (429, 502, 503, 504)


class _Call:
    """One request: what is the same for both clients."""

    def __init__(
        self,
        method: str,
        path: str,
        body: BaseModel | None = None,
        *,
        retry: bool = True,
        **query: Any,
    ) -> None:
        self.method, self.path, self.retry = method, path, retry
        self.query = {name: value for name, value in query.items() if value is not None}
        self.json = None if body is None else body.model_dump(mode="json", exclude_unset=True)


def _lookahead(
    messages: Messages,
    lookahead: Lookahead | None,
    candidates: Messages | None,
    options: dict[str, Any],
) -> _Call:
    given = {} if lookahead is None else {"lookahead": lookahead}
    chosen = {} if candidates is None else {"candidates": list(candidates)}
    body = _body(LookaheadRequest, {"messages": list(messages), **given, **chosen, **options})
    return _Call("POST", "/v1/lookahead", body)


def _score(messages: Messages, candidates: Messages | None, options: dict[str, Any]) -> _Call:
    chosen = {} if candidates is None else {"candidates": list(candidates)}
    body = _body(ScoreRequest, {"messages": list(messages), **chosen, **options})
    return _Call("POST", "/v1/score", body)


def _select(trajectories: Sequence[Trajectory], options: dict[str, Any]) -> _Call:
    body = _body(SelectionRequest, {"trajectories": list(trajectories), **options})
    return _Call("POST", "/v1/selections", body)


def _create(task: Task, strategy: Strategy | None, options: dict[str, Any]) -> _Call:
    given = {} if strategy is None else {"strategy": strategy}
    body = _body(RunRequest, {"task": task, **given, **options})
    return _Call("POST", "/v1/runs", body, retry=False)


def _body(kind: type[Reply], fields: dict[str, Any]) -> Reply:
    """A request, checked before it is sent."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"{where}: {first['msg']}", status=400, param=where) from error


def _headers(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    try:
        body = response.json()
    except ValueError:
        body = None
    raise error_of(response.status_code, body)


def _parsed(kind: type[Reply], response: httpx.Response) -> Reply:
    return _read(kind, response.content, response)


def _lines(response: httpx.Response) -> list[Trajectory]:
    # bytes, since lines of text also end at U+2028 and its like, which JSON holds bare
    lines = response.content.splitlines()
    return [_read(Trajectory, line, response) for line in lines]


def _read(kind: type[Reply], content: bytes, response: httpx.Response) -> Reply:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise UnexpectedAnswer(
            f"{response.url} answers something else than a {kind.__name__}. Is it this version of "
            "the service? Set PILOTFISH_URL to where that is."
        ) from error


def _failure(url: str, error: httpx.HTTPError) -> ConnectionFailed | RequestTimeout:
    if isinstance(error, httpx.TimeoutException):
        return RequestTimeout(f"{url} did not answer in time")
    return ConnectionFailed(
        f"cannot reach {url}: {error or type(error).__name__}. Is the service up? "
        "Set PILOTFISH_URL to where it is."
    )


def _wait(attempt: int, response: httpx.Response | None) -> float:
    """Seconds before another attempt: what the service asks for, else 0.2, 0.4..."""
    asked = response.headers.get("retry-after", "") if response is not None else ""
    return min(float(asked), 30.0) if asked.isdigit() else float(0.2 * 2**attempt)


class _EventParser:
    """Server-sent events from lines."""

    def __init__(self) -> None:
        self._data: list[str] = []

    def feed(self, line: str) -> Event | None:
        if line.startswith("data:"):
            self._data.append(line[5:].strip())
        elif not line and self._data:
            text, self._data = "\n".join(self._data), []
            return Event.model_validate(json.loads(text))
        return None


class Pilotfish:
    """A synchronous client. ``url`` and ``key`` default to ``PILOTFISH_URL`` and ``PILOTFISH_KEY``;
    ``timeout`` is in seconds; ``retries`` counts further attempts of calls that change nothing.

    Every call raises the exceptions of ``pilotfish.errors``.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = 600.0,
        retries: int = 2,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = (url or os.environ.get("PILOTFISH_URL") or DEFAULT_URL).rstrip("/")
        self._retries = retries
        self._http = httpx.Client(
            base_url=self.url,
            headers=_headers(key or os.environ.get("PILOTFISH_KEY")),
            timeout=httpx.Timeout(timeout, connect=10.0),
            transport=transport,
        )

    def __enter__(self) -> Pilotfish:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def lookahead(
        self,
        messages: Messages,
        lookahead: Lookahead | None = None,
        *,
        candidates: Messages | None = None,
        **options: Any,
    ) -> LookaheadResponse:
        """Decide one step. ``candidates`` are your own; without, the policy samples. ``options``:
        ``model``, ``critic``, ``session``."""
        call = _lookahead(messages, lookahead, candidates, options)
        return _parsed(LookaheadResponse, self._send(call))

    def score(
        self, messages: Messages, candidates: Messages | None = None, **options: Any
    ) -> list[float]:
        """Q of each candidate, or, without candidates, of every agent turn of the history."""
        call = _score(messages, candidates, options)
        return _parsed(ScoreResponse, self._send(call)).q

    def select(self, trajectories: Sequence[Trajectory], **options: Any) -> SelectionResponse:
        """Which of these trajectories to return. ``options``: ``critic``, ``abstain_below``,
        ``rescore``."""
        call = _select(trajectories, options)
        return _parsed(SelectionResponse, self._send(call))

    def create_run(self, task: Task, strategy: Strategy | None = None, **options: Any) -> RunView:
        """Queue a run. ``options``: ``model``, ``critic``, ``sandbox``, ``tags``."""
        return _parsed(RunView, self._send(_create(task, strategy, options)))

    def run(self, task: Task, strategy: Strategy | None = None, **options: Any) -> RunView:
        """Make a run and wait for its end. A Ctrl-C cancels it."""
        made = self.create_run(task, strategy, **options)
        try:
            return self.wait(made.id)
        except BaseException:
            self.cancel_run(made.id)
            raise

    def get_run(self, run_id: str) -> RunView:
        call = _Call("GET", f"/v1/runs/{run_id}")
        return _parsed(RunView, self._send(call))

    def list_runs(self) -> Iterator[RunView]:
        """All runs, newest first; pages are fetched as they are needed."""
        after: str | None = None
        while True:
            call = _Call("GET", "/v1/runs", after=after)
            page = _parsed(RunList, self._send(call))
            yield from page.data
            after = page.next
            if after is None:
                return

    def cancel_run(self, run_id: str) -> RunView:
        call = _Call("POST", f"/v1/runs/{run_id}/cancel")
        return _parsed(RunView, self._send(call))

    def trajectory(self, run_id: str, number: int) -> Trajectory:
        call = _Call("GET", f"/v1/runs/{run_id}/trajectories/{number}")
        return _parsed(Trajectory, self._send(call))

    def trajectories(self, run_id: str) -> list[Trajectory]:
        """All trajectories of a run, whole."""
        return _lines(self._send(_Call("GET", f"/v1/runs/{run_id}/trajectories")))

    def events(self, run_id: str, *, after: str | None = None) -> Iterator[Event]:
        """The run's events until it has ended; taken up again where a connection breaks."""
        while True:
            headers = {"Last-Event-ID": after} if after else {}
            parser = _EventParser()
            path = f"/v1/runs/{run_id}/events"
            try:
                with self._http.stream("GET", path, headers=headers) as response:
                    if not response.is_success:
                        response.read()
                        _checked(response)
                    for line in response.iter_lines():
                        if (event := parser.feed(line)) is not None:
                            after = event.id
                            yield event
                            if event.kind == "run_ended":
                                return
            except httpx.ConnectError as error:
                raise _failure(self.url, error) from error
            except httpx.HTTPError:
                time.sleep(0.2)
            if self.get_run(run_id).status in FINAL_STATUSES and after is not None:
                return

    def wait(self, run_id: str) -> RunView:
        """The run, when it has ended."""
        for _ in self.events(run_id):
            pass
        return self.get_run(run_id)

    def _send(self, call: _Call) -> httpx.Response:
        attempts = 1 + (self._retries if call.retry else 0)
        for attempt in range(attempts):
            last = attempt == attempts - 1
            try:
                response = self._http.request(
                    call.method, call.path, json=call.json, params=call.query
                )
            except httpx.HTTPError as error:
                if last or not isinstance(error, httpx.ConnectError):
                    raise _failure(self.url, error) from error
                time.sleep(_wait(attempt, None))
                continue
            if last or response.status_code not in _RETRIED:
                return _checked(response)
            time.sleep(_wait(attempt, response))
        raise AssertionError("unreachable")


class AsyncPilotfish:
    """The same, asynchronous."""

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = 600.0,
        retries: int = 2,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = (url or os.environ.get("PILOTFISH_URL") or DEFAULT_URL).rstrip("/")
        self._retries = retries
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers=_headers(key or os.environ.get("PILOTFISH_KEY")),
            timeout=httpx.Timeout(timeout, connect=10.0),
            limits=httpx.Limits(max_connections=1000),
            transport=transport,
        )

    async def __aenter__(self) -> AsyncPilotfish:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def lookahead(
        self,
        messages: Messages,
        lookahead: Lookahead | None = None,
        *,
        candidates: Messages | None = None,
        **options: Any,
    ) -> LookaheadResponse:
        """Decide one step; see ``Pilotfish.lookahead``."""
        call = _lookahead(messages, lookahead, candidates, options)
        return _parsed(LookaheadResponse, await self._send(call))

    async def score(
        self, messages: Messages, candidates: Messages | None = None, **options: Any
    ) -> list[float]:
        """Q of each candidate, or, without candidates, of every agent turn of the history."""
        call = _score(messages, candidates, options)
        return _parsed(ScoreResponse, await self._send(call)).q

    async def select(self, trajectories: Sequence[Trajectory], **options: Any) -> SelectionResponse:
        """Which of these trajectories to return."""
        call = _select(trajectories, options)
        return _parsed(SelectionResponse, await self._send(call))

    async def create_run(
        self, task: Task, strategy: Strategy | None = None, **options: Any
    ) -> RunView:
        """Queue a run."""
        call = _create(task, strategy, options)
        return _parsed(RunView, await self._send(call))

    async def run(self, task: Task, strategy: Strategy | None = None, **options: Any) -> RunView:
        """Make a run and wait for its end. Being cancelled cancels it."""
        made = await self.create_run(task, strategy, **options)
        try:
            return await self.wait(made.id)
        except BaseException:
            await asyncio.shield(self.cancel_run(made.id))
            raise

    async def get_run(self, run_id: str) -> RunView:
        call = _Call("GET", f"/v1/runs/{run_id}")
        return _parsed(RunView, await self._send(call))

    async def list_runs(self) -> AsyncIterator[RunView]:
        """All runs, newest first; pages are fetched as they are needed."""
        after: str | None = None
        while True:
            call = _Call("GET", "/v1/runs", after=after)
            page = _parsed(RunList, await self._send(call))
            for run in page.data:
                yield run
            after = page.next
            if after is None:
                return

    async def cancel_run(self, run_id: str) -> RunView:
        call = _Call("POST", f"/v1/runs/{run_id}/cancel")
        return _parsed(RunView, await self._send(call))

    async def trajectory(self, run_id: str, number: int) -> Trajectory:
        call = _Call("GET", f"/v1/runs/{run_id}/trajectories/{number}")
        return _parsed(Trajectory, await self._send(call))

    async def trajectories(self, run_id: str) -> list[Trajectory]:
        """All trajectories of a run, whole."""
        return _lines(await self._send(_Call("GET", f"/v1/runs/{run_id}/trajectories")))

    async def events(self, run_id: str, *, after: str | None = None) -> AsyncIterator[Event]:
        """The run's events until it has ended; taken up again where a connection breaks."""
        while True:
            headers = {"Last-Event-ID": after} if after else {}
            parser = _EventParser()
            path = f"/v1/runs/{run_id}/events"
            try:
                async with self._http.stream("GET", path, headers=headers) as response:
                    if not response.is_success:
                        await response.aread()
                        _checked(response)
                    async for line in response.aiter_lines():
                        if (event := parser.feed(line)) is not None:
                            after = event.id
                            yield event
                            if event.kind == "run_ended":
                                return
            except httpx.ConnectError as error:
                raise _failure(self.url, error) from error
            except httpx.HTTPError:
                await asyncio.sleep(0.2)
            if (await self.get_run(run_id)).status in FINAL_STATUSES and after is not None:
                return

    async def wait(self, run_id: str) -> RunView:
        """The run, when it has ended."""
        async for _ in self.events(run_id):
            pass
        return await self.get_run(run_id)

    async def _send(self, call: _Call) -> httpx.Response:
        attempts = 1 + (self._retries if call.retry else 0)
        for attempt in range(attempts):
            last = attempt == attempts - 1
            try:
                response = await self._http.request(
                    call.method, call.path, json=call.json, params=call.query
                )
            except httpx.HTTPError as error:
                if last or not isinstance(error, httpx.ConnectError):
                    raise _failure(self.url, error) from error
                await asyncio.sleep(_wait(attempt, None))
                continue
            if last or response.status_code not in _RETRIED:
                return _checked(response)
            await asyncio.sleep(_wait(attempt, response))
        raise AssertionError("unreachable")
