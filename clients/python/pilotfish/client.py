"""The SDK: ``Pilotfish`` and ``AsyncPilotfish``. Knows the routes, and nothing of what they do.

Both speak through the same request builders, so that a route is written once. Calls that change
nothing are tried again when the service cannot be reached or is overloaded; making a run is not,
since it might be made twice. A run that was made goes on without its caller: following one
outlasts a restart of the service.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from pilotfish.api import (
    FINAL_STATUSES,
    Event,
    GuideOptions,
    LookaheadRequest,
    LookaheadResponse,
    RunList,
    RunRequest,
    RunView,
    ScoreRequest,
    ScoreResponse,
    SelectionRequest,
    SelectionResponse,
    SessionList,
    SessionView,
)
from pilotfish.errors import (
    ApiStatusError,
    BadRequest,
    ConnectionFailed,
    PilotfishError,
    RequestTimeout,
    UnexpectedAnswer,
    error_of,
    first_wrong,
)
from pilotfish.messages import Message
from pilotfish.strategy import Lookahead, Strategy
from pilotfish.task import Task
from pilotfish.trajectory import Trajectory

Reply = TypeVar("Reply", bound=BaseModel)
Messages = Sequence[Message | dict[str, Any]]

DEFAULT_URL = "http://127.0.0.1:8700"
_RETRIED = (429, 502, 503, 504)
_SILENCE = 30.0
"""Seconds until a stream of events that says nothing is broken; the service speaks every 4."""


class _Call:
    """One request: what is the same for both clients."""

    def __init__(
        self,
        method: str,
        path: str,
        body: BaseModel | None = None,
        *,
        retry: bool = True,
        key: str | None = None,
        **query: Any,
    ) -> None:
        self.method, self.path, self.retry = method, path, retry
        self.query = {name: value for name, value in query.items() if value is not None}
        self.content = None if body is None else _encoded(body)
        self.headers = {} if body is None else {"Content-Type": "application/json"}
        if key is not None:
            self.headers["Idempotency-Key"] = _sendable(key, "idempotency_key")


def _lookahead(
    messages: Messages,
    lookahead: Lookahead | None,
    candidates: Messages | None,
    options: dict[str, Any],
) -> _Call:
    given = {} if lookahead is None else {"lookahead": lookahead}
    chosen = {} if candidates is None else {"candidates": candidates}
    body = _body(LookaheadRequest, {"messages": messages, **given, **chosen, **options})
    return _Call("POST", "/v1/lookahead", body)


def _score(messages: Messages, candidates: Messages | None, options: dict[str, Any]) -> _Call:
    chosen = {} if candidates is None else {"candidates": candidates}
    body = _body(ScoreRequest, {"messages": messages, **chosen, **options})
    return _Call("POST", "/v1/score", body)


def _select(trajectories: Sequence[Trajectory], options: dict[str, Any]) -> _Call:
    given = {"trajectories": trajectories} if trajectories else {}
    body = _body(SelectionRequest, {**given, **options})
    return _Call("POST", "/v1/selections", body)


def _guide(session: str, options: dict[str, Any]) -> _Call:
    return _Call("PUT", _session(session), _body(GuideOptions, options))


def _create(
    task: Task, strategy: Strategy | None, key: str | None, options: dict[str, Any]
) -> _Call:
    given = {} if strategy is None else {"strategy": strategy}
    body = _body(RunRequest, {"task": task, **given, **options})
    return _Call("POST", "/v1/runs", body, retry=key is not None, key=key)


def _show(run_id: str, trajectories: bool) -> _Call:
    return _Call("GET", _run(run_id), trajectories=None if trajectories else "false")


def _body(kind: type[Reply], fields: dict[str, Any]) -> Reply:
    """A request, checked before it is sent."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        where, told = first_wrong(error.errors())
        raise BadRequest(told, status=400, param=where or None) from error


def _encoded(body: BaseModel) -> bytes:
    try:
        fields = body.model_dump(mode="json", exclude_unset=True)
        return json.dumps(fields, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the request cannot be written as JSON: {error}", status=400) from error


def _run(run_id: str, *parts: object) -> str:
    return _path("/v1/runs", "run", run_id, *parts)


def _session(session: str, *parts: object) -> str:
    return _path("/v1/sessions", "session", session, *parts)


def _path(root: str, kind: str, name: str, *parts: object) -> str:
    """The path of one, or of a part of it; quoted, so that what is no id is just not found."""
    if not name:
        raise BadRequest(f"the {kind}'s id is empty; give one", status=400, param=f"{kind}_id")
    words = [quote(str(part), safe="", errors="backslashreplace") for part in (name, *parts)]
    return "/".join([root, *words]).replace(".", "%2E")  # else httpx resolves ".."


def _http_options(url: str, key: str | None, timeout: float) -> dict[str, Any]:
    """What both HTTP clients are made with."""
    key = key or os.environ.get("PILOTFISH_KEY")
    try:
        base = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConnectionFailed(f"cannot reach {url}: {error}. Set PILOTFISH_URL") from error
    return {
        "base_url": base,
        "headers": {"Authorization": f"Bearer {_sendable(key, 'key')}"} if key else {},
        "timeout": httpx.Timeout(timeout, connect=10.0),
    }


def _events_options(after: str | None, timeout: httpx.Timeout) -> dict[str, Any]:
    """What both clients ask for events with."""
    return {
        "headers": {"Last-Event-ID": _sendable(after, "after")} if after else {},
        "timeout": httpx.Timeout(**timeout.as_dict() | {"read": _SILENCE}),
    }


def _sendable(value: str, param: str) -> str:
    """The value, if a header of HTTP can hold it."""
    if value.isascii() and value.isprintable() and value == value.strip():
        return value
    told = "has characters that cannot be sent; give it in printable ASCII, without spaces around"
    raise BadRequest(f"the {param} {told}", status=400, param=param)


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    try:
        body = response.json()
    except (ValueError, RecursionError):
        body = None
    raise error_of(response.status_code, body, _asked(response))


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
        raise _unexpected(kind, response) from error


def _unexpected(kind: type[BaseModel], response: httpx.Response) -> UnexpectedAnswer:
    return UnexpectedAnswer(
        f"{response.url} answers something else than a {kind.__name__}. Is it this version of "
        "the service? Set PILOTFISH_URL to where that is."
    )


def _failure(url: str, error: httpx.HTTPError) -> ConnectionFailed | RequestTimeout:
    if isinstance(error, httpx.TimeoutException):
        return RequestTimeout(f"{url} did not answer in time")
    return ConnectionFailed(
        f"cannot reach {url}: {error or type(error).__name__}. Is the service up? "
        "Set PILOTFISH_URL to where it is."
    )


def _asked(response: httpx.Response) -> float | None:
    """Seconds that the service asks to wait."""
    asked = response.headers.get("retry-after", "")
    return float(asked) if asked.isdecimal() else None


def _pause(attempt: int, asked: float | None) -> float:
    """Seconds before another attempt: what the service asks for, else 0.2, 0.4... 6.4."""
    own = 0.2 * float(2 ** min(attempt, 5))
    return own if asked is None else min(max(asked, 0.2), 30.0)


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
        known = _failure(self._url, error) if isinstance(error, httpx.HTTPError) else error
        asked = None
        if isinstance(known, ApiStatusError):
            passing, asked = known.status in _RETRIED, known.retry_after
        else:
            passing = isinstance(known, ConnectionFailed | RequestTimeout)
        now = time.monotonic()
        if self._attempt == 0:
            self._until = now + self._seconds
        if not passing or now >= self._until:
            raise known
        self._attempt += 1
        return min(_pause(self._attempt - 1, asked), self._until - now)


def _cut_short(url: str) -> ConnectionFailed:
    return ConnectionFailed(f"{url} ends the events of a run that has not ended. Ask it again.")


@contextmanager
def _naming(run_id: str) -> Iterator[None]:
    """Errors name the run, which goes on."""
    try:
        yield
    except PilotfishError as error:
        error.run_id = run_id
        raise


class _EventParser:
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


class Pilotfish:
    """A synchronous client. ``url`` and ``key`` default to ``PILOTFISH_URL`` and ``PILOTFISH_KEY``;
    ``timeout`` is in seconds; ``retries`` counts further attempts of calls that change nothing;
    ``patience`` is for how many seconds the service may be away while a run is followed.

    Every call raises the exceptions of ``pilotfish.errors``.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = 600.0,
        retries: int = 2,
        patience: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = (url or os.environ.get("PILOTFISH_URL") or DEFAULT_URL).rstrip("/")
        self._retries, self._patience = retries, patience
        options = _http_options(self.url, key, timeout)
        self._http = httpx.Client(
            **options,
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

    def select(self, trajectories: Sequence[Trajectory] = (), **options: Any) -> SelectionResponse:
        """Which of these trajectories to return. ``options``: ``sessions`` (ids, instead of
        trajectories), ``critic``, ``rule``, ``abstain_below``, ``rescore``."""
        call = _select(trajectories, options)
        return _parsed(SelectionResponse, self._send(call))

    def create_run(
        self,
        task: Task,
        strategy: Strategy | None = None,
        *,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> RunView:
        """Queue a run. ``options``: ``model``, ``critic``, ``sandbox``, ``tags``. Asked again with
        the same ``idempotency_key``, the service gives the run that it made the first time; with
        one, the call is therefore tried again."""
        return _parsed(RunView, self._send(_create(task, strategy, idempotency_key, options)))

    def run(self, task: Task, strategy: Strategy | None = None, **options: Any) -> RunView:
        """Make a run and wait for its end. A Ctrl-C cancels it; an error names it, and it goes
        on."""
        made = self.create_run(task, strategy, **options)
        try:
            with _naming(made.id):
                return self.wait(made.id)
        except PilotfishError:
            raise
        except BaseException:
            with suppress(Exception):
                self.cancel_run(made.id)
            raise

    def get_run(self, run_id: str, *, trajectories: bool = True) -> RunView:
        """A run as it is now. Without its ``trajectories`` the service need not read its journal:
        for looking often."""
        return _parsed(RunView, self._send(_show(run_id, trajectories)))

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
        call = _Call("POST", _run(run_id, "cancel"))
        return _parsed(RunView, self._send(call))

    def pause_run(self, run_id: str) -> RunView:
        """Lay it aside; its sandboxes stay as they are."""
        call = _Call("POST", _run(run_id, "pause"))
        return _parsed(RunView, self._send(call))

    def resume_run(self, run_id: str) -> RunView:
        """Go on with a paused run."""
        call = _Call("POST", _run(run_id, "resume"))
        return _parsed(RunView, self._send(call))

    def retry_run(self, run_id: str) -> RunView:
        """Go on with a run that failed or was cancelled: what the policy ended itself stays, the
        rest is done again."""
        call = _Call("POST", _run(run_id, "retry"))
        return _parsed(RunView, self._send(call))

    def trajectory(self, run_id: str, number: int) -> Trajectory:
        call = _Call("GET", _run(run_id, "trajectories", number))
        return _parsed(Trajectory, self._send(call))

    def trajectories(self, run_id: str) -> list[Trajectory]:
        """All trajectories of a run, whole."""
        return _lines(self._send(_Call("GET", _run(run_id, "trajectories"))))

    def list_sessions(self) -> Iterator[SessionView]:
        """All sessions, the latest called first; pages are fetched as they are needed."""
        after: str | None = None
        while True:
            page = _parsed(SessionList, self._send(_Call("GET", "/v1/sessions", after=after)))
            yield from page.data
            after = page.next
            if after is None:
                return

    def get_session(self, session: str) -> SessionView:
        return _parsed(SessionView, self._send(_Call("GET", _session(session))))

    def guide_session(self, session: str, **options: Any) -> SessionView:
        """Set how calls of a session are guided that do not say it: ``k``, ``pick``,
        ``pick_temperature``, ``threshold``, ``deadline``, ``critic``."""
        return _parsed(SessionView, self._send(_guide(session, options)))

    def session_trajectory(self, session: str) -> Trajectory:
        """What an outside agent did, with every candidate, score and reason."""
        return _parsed(Trajectory, self._send(_Call("GET", _session(session, "trajectory"))))

    def delete_session(self, session: str) -> None:
        """Delete what is kept of it."""
        self._send(_Call("DELETE", _session(session)))

    def events(self, run_id: str, *, after: str | None = None) -> Iterator[Event]:
        """The run's events until it has ended; taken up again where a connection breaks, unless the
        service stays away for longer than ``patience``."""
        path, patience = _run(run_id, "events"), Patience(self.url, self._patience)
        while True:
            options = _events_options(after, self._http.timeout)
            try:
                with self._http.stream("GET", path, **options) as response:
                    if not response.is_success:
                        response.read()
                    parser = _EventParser(_checked(response))
                    for line in response.iter_lines():
                        patience.heard()
                        if (event := parser.feed(line)) is not None:
                            after = event.id
                            yield event
                            if event.kind == "run_ended":
                                return
                if self.get_run(run_id).status in FINAL_STATUSES:
                    return
                raise _cut_short(self.url)
            except (httpx.HTTPError, PilotfishError) as error:
                pause = patience.pause(error)
            time.sleep(pause)

    def wait(self, run_id: str) -> RunView:
        """The run, when it has ended. Is as patient as ``events``."""
        run = self._look_for(run_id)
        if run.status not in FINAL_STATUSES:
            for _ in self.events(run_id):
                pass
            run = self._look_for(run_id)
        return run

    def _look_for(self, run_id: str) -> RunView:
        """The run as it is, as soon as the service tells."""
        patience = Patience(self.url, self._patience)
        while True:
            try:
                return self.get_run(run_id)
            except PilotfishError as error:
                pause = patience.pause(error)
            time.sleep(pause)

    def _send(self, call: _Call) -> httpx.Response:
        attempts = 1 + (self._retries if call.retry else 0)
        for attempt in range(attempts):
            last = attempt == attempts - 1
            try:
                response = self._http.request(
                    call.method,
                    call.path,
                    content=call.content,
                    headers=call.headers,
                    params=call.query,
                )
            except httpx.HTTPError as error:
                if last or not isinstance(error, httpx.ConnectError):
                    raise _failure(self.url, error) from error
                time.sleep(_pause(attempt, None))
                continue
            if last or response.status_code not in _RETRIED:
                return _checked(response)
            time.sleep(_pause(attempt, _asked(response)))
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
        patience: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = (url or os.environ.get("PILOTFISH_URL") or DEFAULT_URL).rstrip("/")
        self._retries, self._patience = retries, patience
        options = _http_options(self.url, key, timeout)
        self._http = httpx.AsyncClient(
            **options,
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

    async def select(
        self, trajectories: Sequence[Trajectory] = (), **options: Any
    ) -> SelectionResponse:
        """Which of these trajectories to return."""
        call = _select(trajectories, options)
        return _parsed(SelectionResponse, await self._send(call))

    async def create_run(
        self,
        task: Task,
        strategy: Strategy | None = None,
        *,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> RunView:
        """Queue a run; see ``Pilotfish.create_run``."""
        call = _create(task, strategy, idempotency_key, options)
        return _parsed(RunView, await self._send(call))

    async def run(self, task: Task, strategy: Strategy | None = None, **options: Any) -> RunView:
        """Make a run and wait for its end. Being cancelled cancels it; an error names it, and it
        goes on."""
        made = await self.create_run(task, strategy, **options)
        try:
            with _naming(made.id):
                return await self.wait(made.id)
        except asyncio.CancelledError:
            with suppress(Exception):
                await asyncio.shield(self.cancel_run(made.id))
            raise

    async def get_run(self, run_id: str, *, trajectories: bool = True) -> RunView:
        """A run as it is now. Without its ``trajectories`` the service need not read its journal:
        for looking often."""
        return _parsed(RunView, await self._send(_show(run_id, trajectories)))

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
        call = _Call("POST", _run(run_id, "cancel"))
        return _parsed(RunView, await self._send(call))

    async def pause_run(self, run_id: str) -> RunView:
        """Lay it aside; its sandboxes stay as they are."""
        call = _Call("POST", _run(run_id, "pause"))
        return _parsed(RunView, await self._send(call))

    async def resume_run(self, run_id: str) -> RunView:
        """Go on with a paused run."""
        call = _Call("POST", _run(run_id, "resume"))
        return _parsed(RunView, await self._send(call))

    async def retry_run(self, run_id: str) -> RunView:
        """Go on with a run that failed or was cancelled: what the policy ended itself stays, the
        rest is done again."""
        call = _Call("POST", _run(run_id, "retry"))
        return _parsed(RunView, await self._send(call))

    async def trajectory(self, run_id: str, number: int) -> Trajectory:
        call = _Call("GET", _run(run_id, "trajectories", number))
        return _parsed(Trajectory, await self._send(call))

    async def trajectories(self, run_id: str) -> list[Trajectory]:
        """All trajectories of a run, whole."""
        return _lines(await self._send(_Call("GET", _run(run_id, "trajectories"))))

    async def stream_trajectories(self, run_id: str) -> AsyncIterator[Trajectory]:
        """The same one after another, as they arrive: only one is in memory."""
        try:
            async with self._http.stream("GET", _run(run_id, "trajectories")) as response:
                if not response.is_success:
                    await response.aread()
                _checked(response)
                rest: list[bytes] = []
                async for piece in response.aiter_bytes():
                    first, *others = piece.split(b"\n")
                    rest.append(first)
                    for other in others:
                        yield _read(Trajectory, b"".join(rest), response)
                        rest = [other]
                if any(rest):
                    yield _read(Trajectory, b"".join(rest), response)
        except httpx.HTTPError as error:
            raise _failure(self.url, error) from error

    async def list_sessions(self) -> AsyncIterator[SessionView]:
        """All sessions, the latest called first; pages are fetched as they are needed."""
        after: str | None = None
        while True:
            page = _parsed(SessionList, await self._send(_Call("GET", "/v1/sessions", after=after)))
            for session in page.data:
                yield session
            after = page.next
            if after is None:
                return

    async def get_session(self, session: str) -> SessionView:
        return _parsed(SessionView, await self._send(_Call("GET", _session(session))))

    async def guide_session(self, session: str, **options: Any) -> SessionView:
        """Set how calls of a session are guided that do not say it: ``k``, ``pick``,
        ``pick_temperature``, ``threshold``, ``deadline``, ``critic``."""
        return _parsed(SessionView, await self._send(_guide(session, options)))

    async def session_trajectory(self, session: str) -> Trajectory:
        """What an outside agent did, with every candidate, score and reason."""
        return _parsed(Trajectory, await self._send(_Call("GET", _session(session, "trajectory"))))

    async def delete_session(self, session: str) -> None:
        """Delete what is kept of it."""
        await self._send(_Call("DELETE", _session(session)))

    async def events(self, run_id: str, *, after: str | None = None) -> AsyncIterator[Event]:
        """The run's events until it has ended; taken up again where a connection breaks, unless the
        service stays away for longer than ``patience``."""
        path, patience = _run(run_id, "events"), Patience(self.url, self._patience)
        while True:
            options = _events_options(after, self._http.timeout)
            try:
                async with self._http.stream("GET", path, **options) as response:
                    if not response.is_success:
                        await response.aread()
                    parser = _EventParser(_checked(response))
                    async for line in response.aiter_lines():
                        patience.heard()
                        if (event := parser.feed(line)) is not None:
                            after = event.id
                            yield event
                            if event.kind == "run_ended":
                                return
                if (await self.get_run(run_id)).status in FINAL_STATUSES:
                    return
                raise _cut_short(self.url)
            except (httpx.HTTPError, PilotfishError) as error:
                pause = patience.pause(error)
            await asyncio.sleep(pause)

    async def wait(self, run_id: str) -> RunView:
        """The run, when it has ended. Is as patient as ``events``."""
        run = await self._look_for(run_id)
        if run.status not in FINAL_STATUSES:
            async for _ in self.events(run_id):
                pass
            run = await self._look_for(run_id)
        return run

    async def _look_for(self, run_id: str) -> RunView:
        """The run as it is, as soon as the service tells."""
        patience = Patience(self.url, self._patience)
        while True:
            try:
                return await self.get_run(run_id)
            except PilotfishError as error:
                pause = patience.pause(error)
            await asyncio.sleep(pause)

    async def _send(self, call: _Call) -> httpx.Response:
        attempts = 1 + (self._retries if call.retry else 0)
        for attempt in range(attempts):
            last = attempt == attempts - 1
            try:
                response = await self._http.request(
                    call.method,
                    call.path,
                    content=call.content,
                    headers=call.headers,
                    params=call.query,
                )
            except httpx.HTTPError as error:
                if last or not isinstance(error, httpx.ConnectError):
                    raise _failure(self.url, error) from error
                await asyncio.sleep(_pause(attempt, None))
                continue
            if last or response.status_code not in _RETRIED:
                return _checked(response)
            await asyncio.sleep(_pause(attempt, _asked(response)))
        raise AssertionError("unreachable")
