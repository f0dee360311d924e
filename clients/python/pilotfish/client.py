"""The SDK: ``Pilotfish`` and ``AsyncPilotfish``. Knows the routes, and nothing of what they do.

Both send what ``calls`` builds, so that a route is written once. Calls that may be repeated are
tried again when the service cannot be reached or is in trouble; making a run is not, unless it has
an idempotency key, since it might be made twice. A run that was made goes on without its caller:
following one outlasts a restart of the service.
"""

from __future__ import annotations

import asyncio
import copy
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, closing, contextmanager, suppress
from types import TracebackType

import httpx
from typing_extensions import Self, Unpack

from pilotfish import calls
from pilotfish.answers import EventLines, TrajectoryLines, checked, parsed
from pilotfish.api import (
    FINAL_STATUSES,
    Event,
    Item,
    LookaheadResponse,
    RunList,
    RunView,
    ScoreResponse,
    SelectionResponse,
    SessionList,
    SessionView,
)
from pilotfish.calls import (
    Call,
    LookaheadOptions,
    Messages,
    RunOptions,
    ScoreOptions,
    SelectionOptions,
    SessionGuide,
)
from pilotfish.errors import ConnectionFailed, PilotfishError
from pilotfish.options import ClientOptions, MoreOptions, Options
from pilotfish.paging import Pages
from pilotfish.retries import Attempts, Patience, failure
from pilotfish.strategy import Lookahead, Strategy
from pilotfish.task import Task
from pilotfish.trajectory import Decision, Trajectory

DEFAULT_URL = "http://127.0.0.1:8700"


class _Client:
    """What is the same for both clients."""

    _http: httpx.Client | httpx.AsyncClient

    def __init__(self, url: str | None, key: str | None, options: MoreOptions) -> None:
        self.url = (url or os.environ.get("PILOTFISH_URL") or DEFAULT_URL).rstrip("/")
        self._options = Options(key=key or os.environ.get("PILOTFISH_KEY")).changed(options)
        try:
            self._base = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise ConnectionFailed(
                f"cannot reach {self.url}: {error}. Set PILOTFISH_URL"
            ) from error

    def with_options(self, **options: Unpack[ClientOptions]) -> Self:
        """A client that is the same but for these. It shares the connections of this one, and
        closing either closes them for both. Raises: ``BadRequest`` for what cannot be sent."""
        copied = copy.copy(self)
        copied._options = self._options.changed(options)
        return copied

    def _request(self, call: Call, timeout: httpx.Timeout) -> httpx.Request:
        return self._http.build_request(
            call.method,
            call.path,
            content=call.content,
            headers=self._options.headers_of(call),
            params=call.query,
            timeout=timeout,
        )


class Pilotfish(_Client):
    """A synchronous client.

    ``url`` and ``key`` default to ``PILOTFISH_URL`` and ``PILOTFISH_KEY``; the others are those of
    ``MoreOptions``. Every call raises the exceptions of ``pilotfish.errors``.
    """

    _http: httpx.Client

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        **options: Unpack[MoreOptions],
    ) -> None:
        super().__init__(url, key, options)
        self._http = httpx.Client(base_url=self._base, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, which all copies share."""
        self._http.close()

    def lookahead(
        self,
        messages: Messages,
        lookahead: Lookahead | None = None,
        *,
        candidates: Messages | None = None,
        **options: Unpack[LookaheadOptions],
    ) -> LookaheadResponse:
        """Decide one step. ``candidates`` are your own; without, the policy samples."""
        call = calls.lookahead(messages, lookahead, candidates, options)
        return parsed(LookaheadResponse, self._send(call))

    def guide(
        self, messages: Messages, candidates: Messages, **options: Unpack[LookaheadOptions]
    ) -> Decision:
        """For agents that sample candidates themselves: which of them to act on. ``chosen`` is its
        place among them, ``message`` the turn; each has its Q."""
        answer = self.lookahead(messages, candidates=candidates, **options)
        return answer.decision

    def score(
        self,
        messages: Messages,
        candidates: Messages | None = None,
        **options: Unpack[ScoreOptions],
    ) -> list[float]:
        """Q, in [0, 1], of each candidate, or, without candidates, of every agent turn of the
        history."""
        call = calls.score(messages, candidates, options)
        return parsed(ScoreResponse, self._send(call)).q

    def select(
        self, trajectories: Sequence[Trajectory] = (), **options: Unpack[SelectionOptions]
    ) -> SelectionResponse:
        """Which of these trajectories to return; or of ``sessions``, by id, instead."""
        return parsed(SelectionResponse, self._send(calls.select(trajectories, options)))

    def create_run(
        self, task: Task, strategy: Strategy | None = None, **options: Unpack[RunOptions]
    ) -> RunView:
        """Queue a run. Asked again with the same ``idempotency_key``, the service gives the run
        that it made the first time; with one, the call is therefore tried again."""
        call = calls.create_run(task, strategy, options, self._options.idempotency_key)
        return parsed(RunView, self._send(call))

    def run(
        self, task: Task, strategy: Strategy | None = None, **options: Unpack[RunOptions]
    ) -> RunView:
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
        return parsed(RunView, self._send(calls.get_run(run_id, trajectories)))

    def list_runs(self, *, limit: int | None = None) -> Iterator[RunView]:
        """All runs, or the ``limit`` newest, newest first; pages are fetched as they are needed."""
        return self._all(Pages(RunList, "/v1/runs", limit))

    def cancel_run(self, run_id: str) -> RunView:
        """Stop it; what was done is kept."""
        return parsed(RunView, self._send(calls.ask_run(run_id, "cancel")))

    def pause_run(self, run_id: str) -> RunView:
        """Lay it aside; its sandboxes stay as they are."""
        return parsed(RunView, self._send(calls.ask_run(run_id, "pause")))

    def resume_run(self, run_id: str) -> RunView:
        """Go on with a paused run."""
        return parsed(RunView, self._send(calls.ask_run(run_id, "resume")))

    def retry_run(self, run_id: str) -> RunView:
        """Go on with a run that failed or was cancelled: what the policy ended itself stays, the
        rest is done again."""
        return parsed(RunView, self._send(calls.ask_run(run_id, "retry")))

    def trajectory(self, run_id: str, number: int) -> Trajectory:
        """One trajectory of a run, whole."""
        return parsed(Trajectory, self._send(calls.trajectory(run_id, number)))

    def trajectories(self, run_id: str) -> list[Trajectory]:
        """All trajectories of a run, whole."""
        response = self._send(calls.trajectories(run_id))
        lines = TrajectoryLines(response)
        return [*lines.feed(response.content), *lines.end()]

    def stream_trajectories(self, run_id: str) -> Iterator[Trajectory]:
        """The same one after another, as they arrive: only one is in memory."""
        try:
            with self._streaming(calls.trajectories(run_id)) as response:
                lines = TrajectoryLines(response)
                for piece in response.iter_bytes():
                    yield from lines.feed(piece)
                yield from lines.end()
        except httpx.HTTPError as error:
            raise failure(self.url, error) from error

    def list_sessions(self, *, limit: int | None = None) -> Iterator[SessionView]:
        """All sessions, or the ``limit`` latest, the latest called first; pages are fetched as they
        are needed."""
        return self._all(Pages(SessionList, "/v1/sessions", limit))

    def get_session(self, session: str) -> SessionView:
        """One session as it is now."""
        return parsed(SessionView, self._send(calls.get_session(session)))

    def guide_session(self, session: str, **options: Unpack[SessionGuide]) -> SessionView:
        """Set how calls of a session are guided that do not say it."""
        return parsed(SessionView, self._send(calls.guide_session(session, options)))

    def session_trajectory(self, session: str) -> Trajectory:
        """What an outside agent did, with every candidate, score and reason."""
        return parsed(Trajectory, self._send(calls.session_trajectory(session)))

    def delete_session(self, session: str) -> None:
        """Delete what is kept of it."""
        self._send(calls.delete_session(session))

    def events(self, run_id: str, *, after: str | None = None) -> Iterator[Event]:
        """The run's events, behind the one with the id ``after``, until it has ended; taken up
        again where a connection breaks, unless the service stays away for longer than
        ``patience``."""
        patience = Patience(self.url, self._options.patience)
        while True:
            call = calls.events(run_id, after)
            try:
                with self._streaming(call, self._options.stream_timeout) as response:
                    lines = EventLines(response)
                    for line in response.iter_lines():
                        patience.heard()
                        if (event := lines.feed(line)) is not None:
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
        patience = Patience(self.url, self._options.patience)
        while True:
            try:
                return self.get_run(run_id)
            except PilotfishError as error:
                pause = patience.pause(error)
            time.sleep(pause)

    def _all(self, pages: Pages[Item]) -> Iterator[Item]:
        while (call := pages.next_call()) is not None:
            yield from pages.items(self._send(call))

    def _send(self, call: Call) -> httpx.Response:
        attempts = Attempts(call, self.url, self._options.max_retries)
        while True:
            pause: float | None
            try:
                response = self._http.send(self._request(call, self._options.request_timeout))
            except httpx.HTTPError as error:
                pause = attempts.after_failure(error)
            else:
                pause = attempts.after_answer(response)
                if pause is None:
                    return checked(response)
            time.sleep(pause)

    @contextmanager
    def _streaming(
        self, call: Call, timeout: httpx.Timeout | None = None
    ) -> Iterator[httpx.Response]:
        """A response whose body is read as it comes."""
        request = self._request(call, timeout or self._options.request_timeout)
        response = self._http.send(request, stream=True)
        with closing(response):
            if not response.is_success:
                response.read()
            yield checked(response)


class AsyncPilotfish(_Client):
    """The same, asynchronous."""

    _http: httpx.AsyncClient

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        **options: Unpack[MoreOptions],
    ) -> None:
        super().__init__(url, key, options)
        self._http = httpx.AsyncClient(
            base_url=self._base,
            transport=transport,
            limits=httpx.Limits(max_connections=1000),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, which all copies share."""
        await self._http.aclose()

    async def lookahead(
        self,
        messages: Messages,
        lookahead: Lookahead | None = None,
        *,
        candidates: Messages | None = None,
        **options: Unpack[LookaheadOptions],
    ) -> LookaheadResponse:
        """Decide one step. ``candidates`` are your own; without, the policy samples."""
        call = calls.lookahead(messages, lookahead, candidates, options)
        return parsed(LookaheadResponse, await self._send(call))

    async def guide(
        self, messages: Messages, candidates: Messages, **options: Unpack[LookaheadOptions]
    ) -> Decision:
        """For agents that sample candidates themselves: which of them to act on. ``chosen`` is its
        place among them, ``message`` the turn; each has its Q."""
        answer = await self.lookahead(messages, candidates=candidates, **options)
        return answer.decision

    async def score(
        self,
        messages: Messages,
        candidates: Messages | None = None,
        **options: Unpack[ScoreOptions],
    ) -> list[float]:
        """Q, in [0, 1], of each candidate, or, without candidates, of every agent turn of the
        history."""
        call = calls.score(messages, candidates, options)
        return parsed(ScoreResponse, await self._send(call)).q

    async def select(
        self, trajectories: Sequence[Trajectory] = (), **options: Unpack[SelectionOptions]
    ) -> SelectionResponse:
        """Which of these trajectories to return; or of ``sessions``, by id, instead."""
        return parsed(SelectionResponse, await self._send(calls.select(trajectories, options)))

    async def create_run(
        self, task: Task, strategy: Strategy | None = None, **options: Unpack[RunOptions]
    ) -> RunView:
        """Queue a run. Asked again with the same ``idempotency_key``, the service gives the run
        that it made the first time; with one, the call is therefore tried again."""
        call = calls.create_run(task, strategy, options, self._options.idempotency_key)
        return parsed(RunView, await self._send(call))

    async def run(
        self, task: Task, strategy: Strategy | None = None, **options: Unpack[RunOptions]
    ) -> RunView:
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
        return parsed(RunView, await self._send(calls.get_run(run_id, trajectories)))

    def list_runs(self, *, limit: int | None = None) -> AsyncIterator[RunView]:
        """All runs, or the ``limit`` newest, newest first; pages are fetched as they are needed."""
        return self._all(Pages(RunList, "/v1/runs", limit))

    async def cancel_run(self, run_id: str) -> RunView:
        """Stop it; what was done is kept."""
        return parsed(RunView, await self._send(calls.ask_run(run_id, "cancel")))

    async def pause_run(self, run_id: str) -> RunView:
        """Lay it aside; its sandboxes stay as they are."""
        return parsed(RunView, await self._send(calls.ask_run(run_id, "pause")))

    async def resume_run(self, run_id: str) -> RunView:
        """Go on with a paused run."""
        return parsed(RunView, await self._send(calls.ask_run(run_id, "resume")))

    async def retry_run(self, run_id: str) -> RunView:
        """Go on with a run that failed or was cancelled: what the policy ended itself stays, the
        rest is done again."""
        return parsed(RunView, await self._send(calls.ask_run(run_id, "retry")))

    async def trajectory(self, run_id: str, number: int) -> Trajectory:
        """One trajectory of a run, whole."""
        return parsed(Trajectory, await self._send(calls.trajectory(run_id, number)))

    async def trajectories(self, run_id: str) -> list[Trajectory]:
        """All trajectories of a run, whole."""
        response = await self._send(calls.trajectories(run_id))
        lines = TrajectoryLines(response)
        return [*lines.feed(response.content), *lines.end()]

    async def stream_trajectories(self, run_id: str) -> AsyncIterator[Trajectory]:
        """The same one after another, as they arrive: only one is in memory."""
        try:
            async with self._streaming(calls.trajectories(run_id)) as response:
                lines = TrajectoryLines(response)
                async for piece in response.aiter_bytes():
                    for found in lines.feed(piece):
                        yield found
                for found in lines.end():
                    yield found
        except httpx.HTTPError as error:
            raise failure(self.url, error) from error

    def list_sessions(self, *, limit: int | None = None) -> AsyncIterator[SessionView]:
        """All sessions, or the ``limit`` latest, the latest called first; pages are fetched as they
        are needed."""
        return self._all(Pages(SessionList, "/v1/sessions", limit))

    async def get_session(self, session: str) -> SessionView:
        """One session as it is now."""
        return parsed(SessionView, await self._send(calls.get_session(session)))

    async def guide_session(self, session: str, **options: Unpack[SessionGuide]) -> SessionView:
        """Set how calls of a session are guided that do not say it."""
        return parsed(SessionView, await self._send(calls.guide_session(session, options)))

    async def session_trajectory(self, session: str) -> Trajectory:
        """What an outside agent did, with every candidate, score and reason."""
        return parsed(Trajectory, await self._send(calls.session_trajectory(session)))

    async def delete_session(self, session: str) -> None:
        """Delete what is kept of it."""
        await self._send(calls.delete_session(session))

    async def events(self, run_id: str, *, after: str | None = None) -> AsyncIterator[Event]:
        """The run's events, behind the one with the id ``after``, until it has ended; taken up
        again where a connection breaks, unless the service stays away for longer than
        ``patience``."""
        patience = Patience(self.url, self._options.patience)
        while True:
            call = calls.events(run_id, after)
            try:
                async with self._streaming(call, self._options.stream_timeout) as response:
                    lines = EventLines(response)
                    async for line in response.aiter_lines():
                        patience.heard()
                        if (event := lines.feed(line)) is not None:
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
        patience = Patience(self.url, self._options.patience)
        while True:
            try:
                return await self.get_run(run_id)
            except PilotfishError as error:
                pause = patience.pause(error)
            await asyncio.sleep(pause)

    async def _all(self, pages: Pages[Item]) -> AsyncIterator[Item]:
        while (call := pages.next_call()) is not None:
            for item in pages.items(await self._send(call)):
                yield item

    async def _send(self, call: Call) -> httpx.Response:
        attempts = Attempts(call, self.url, self._options.max_retries)
        while True:
            pause: float | None
            try:
                response = await self._http.send(self._request(call, self._options.request_timeout))
            except httpx.HTTPError as error:
                pause = attempts.after_failure(error)
            else:
                pause = attempts.after_answer(response)
                if pause is None:
                    return checked(response)
            await asyncio.sleep(pause)

    @asynccontextmanager
    async def _streaming(
        self, call: Call, timeout: httpx.Timeout | None = None
    ) -> AsyncIterator[httpx.Response]:
        """A response whose body is read as it comes."""
        request = self._request(call, timeout or self._options.request_timeout)
        response = await self._http.send(request, stream=True)
        async with aclosing(response):
            if not response.is_success:
                await response.aread()
            yield checked(response)


@contextmanager
def _naming(run_id: str) -> Iterator[None]:
    """Errors name the run, which goes on."""
    try:
        yield
    except PilotfishError as error:
        error.run_id = run_id
        raise


def _cut_short(url: str) -> ConnectionFailed:
    return ConnectionFailed(f"{url} ends the events of a run that has not ended. Ask it again.")
