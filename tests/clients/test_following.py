"""Following a run while its service goes away and comes back: what both clients do."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial

import httpx
import pytest

from pilotfish import AsyncPilotfish, Pilotfish
from pilotfish.errors import (
    BadRequest,
    ConnectionFailed,
    NotFound,
    PilotfishError,
    RequestTimeout,
    ServerFailed,
    UnexpectedAnswer,
)
from tests.clients.conftest import TASK

REFUSED = httpx.ConnectError("refused")
RUN = {"id": "r1", "status": "running", "task_id": "t1", "policy": "p", "critic": None,
       "created_at": 0, "strategy": {}}  # fmt: skip


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that breaks off where a piece is an exception."""

    def __init__(self, pieces):
        self.pieces = pieces

    def __iter__(self):
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece.encode()

    async def __aiter__(self):
        for piece in self:
            yield piece


def event(number, kind="decided"):
    entry = {"id": f"{number}-0", "kind": kind, "at": number}
    return f"id: {number}-0\nevent: {kind}\ndata: {json.dumps(entry)}\n\n"


def stream(*pieces):
    return partial(httpx.Response, 200, stream=Pieces(pieces))


def run(status):
    return partial(httpx.Response, 200, json=RUN | {"status": status})


def trouble(status, **headers):
    return partial(httpx.Response, status, json={"error": {"message": "m"}}, headers=headers)


BROKEN = httpx.ReadError("broken")
QUEUED, RUNNING, ENDED = run("queued"), run("running"), run("succeeded")
WHOLE = stream(event(1), event(2), event(3, "run_ended"))


class Service:
    """Gives its answers one after the other, the last again and again; an exception is raised."""

    def __init__(self, answers, at_most):
        self.answers, self.at_most = answers, at_most
        self.requests = []
        self.times = []

    def __call__(self, request):
        self.requests.append(request)
        self.times.append(time.monotonic())
        assert len(self.requests) <= self.at_most, "it asks for ever"
        answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
        if isinstance(answer, BaseException):
            raise answer
        return answer()

    @property
    def asked(self):
        return [f"{request.method} {request.url.path}" for request in self.requests]


@pytest.fixture(params=["synchronous", "asynchronous"])
def asking(request):
    """Calls a method of either client against a service that answers so. Gives what came, or the
    error, and the service."""

    def synchronously(service, method, *words, **settings):
        with Pilotfish(transport=httpx.MockTransport(service), **settings) as client:
            found = getattr(client, method)(*words)
            return list(found) if method == "events" else found

    async def asynchronously(service, method, *words, **settings):
        transport = httpx.MockTransport(service)
        async with AsyncPilotfish(transport=transport, **settings) as client:
            found = getattr(client, method)(*words)
            return [e async for e in found] if method == "events" else await found

    async def ask(answers, method, *words, at_most=50, **settings):
        service = Service(answers, at_most)
        try:
            if request.param == "asynchronous":
                found = await asynchronously(service, method, *words, **settings)
            else:
                found = await asyncio.to_thread(synchronously, service, method, *words, **settings)
        except (PilotfishError, Stop, asyncio.CancelledError) as error:
            found = error
        return found, service

    ask.giving_up = asyncio.CancelledError() if request.param == "asynchronous" else Stop()
    return ask


class Stop(BaseException):
    """The caller gives up, as with a Ctrl-C."""


def ids(events):
    return [event.id for event in events]


async def test_events_are_taken_up_behind_the_last_one_where_a_connection_breaks(asking):
    half = event(2)[:25]
    answers = [stream(event(1), half, BROKEN), REFUSED, REFUSED, trouble(503), WHOLE]
    events, service = await asking(answers, "events", "r1")
    assert ids(events) == ["1-0", "1-0", "2-0", "3-0"]  # WHOLE begins at the start
    asked = [request.headers.get("Last-Event-ID") for request in service.requests]
    assert asked == [None, "1-0", "1-0", "1-0", "1-0"]


async def test_events_are_asked_for_again_before_the_first_one_came(asking):
    events, _ = await asking([REFUSED, stream(BROKEN), WHOLE], "events", "r1")
    assert ids(events) == ["1-0", "2-0", "3-0"]


async def test_a_stream_that_ends_before_its_run_is_taken_up_again(asking):
    events, _ = await asking([stream(event(1)), RUNNING, stream(event(3)), ENDED], "events", "r1")
    assert ids(events) == ["1-0", "3-0"]


async def test_a_silent_stream_is_broken_whatever_a_request_may_take(asking):
    _, service = await asking([WHOLE], "events", "r1", timeout=600)
    assert service.requests[0].extensions["timeout"]["read"] <= 30


@pytest.mark.parametrize("method", ["events", "wait"])
async def test_following_ends_when_patience_does(asking, method):
    error, service = await asking([REFUSED], method, "r1", patience=0.5, max_retries=0)
    assert isinstance(error, ConnectionFailed)
    assert service.times[-1] - service.times[0] >= 0.5
    assert 2 <= len(service.requests) <= 6  # with waits, that grow


async def test_patience_begins_anew_when_something_is_heard(asking):
    answers = [REFUSED, REFUSED, stream(event(1), BROKEN), REFUSED, WHOLE]
    events, service = await asking(answers, "events", "r1", patience=1.0, max_retries=0)
    assert ids(events)[-1] == "3-0"
    assert service.times[-1] - service.times[0] > 1.0


async def test_a_stream_that_always_breaks_is_given_up(asking):
    error, _ = await asking([stream(BROKEN)], "events", "r1", patience=0.3)
    assert isinstance(error, ConnectionFailed)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(trouble(404), NotFound), (trouble(500), ServerFailed),
     (stream("data: {broken\n\n"), UnexpectedAnswer),
     (stream('data: {"id": 5}\n\n'), UnexpectedAnswer),
     (stream("data: 5\n\n"), UnexpectedAnswer),
     (stream("data: " + "[" * 100_000 + "\n\n"), UnexpectedAnswer),
     (stream("<html>"), UnexpectedAnswer)],
)  # fmt: skip
async def test_what_does_not_pass_is_raised_at_once(asking, answer, kind):
    after = partial(httpx.Response, 200, text="<html>")
    error, service = await asking([answer, after], "events", "r1")
    assert type(error) is kind
    assert len(service.requests) <= 2


async def test_waiting_outlasts_a_restart_also_at_its_begin_and_end(asking):
    answers = [REFUSED, RUNNING, WHOLE, REFUSED, trouble(502), ENDED]
    ended, _ = await asking(answers, "wait", "r1", max_retries=0)
    assert ended.status == "succeeded"


async def test_a_run_that_has_ended_is_not_waited_for_nor_its_journal_read(asking):
    ended, service = await asking([ENDED], "wait", "r1")
    assert (ended.status, service.asked) == ("succeeded", ["GET /v1/runs/r1"])


async def test_a_run_that_ended_without_a_journal_has_no_events(asking):
    answers = [stream(": waiting\n\n"), ENDED]
    events, _ = await asking(answers, "events", "r1", at_most=2)
    assert events == []


async def test_a_run_whose_service_is_lost_is_named_and_goes_on(asking):
    settings = {"patience": 0.2, "max_retries": 0}
    error, service = await asking([QUEUED, QUEUED, REFUSED], "run", TASK, **settings)
    assert isinstance(error, ConnectionFailed)
    assert error.run_id == "r1"
    assert "run r1 is in the service" in str(error)
    assert not [asked for asked in service.asked if "cancel" in asked]


@pytest.mark.parametrize("answer", [run("cancelling"), REFUSED, trouble(500)])
async def test_a_caller_that_gives_up_cancels_its_run_and_gets_its_own_exception(asking, answer):
    answers = [QUEUED, asking.giving_up, answer]
    error, service = await asking(answers, "run", TASK, max_retries=0)
    assert type(error) is type(asking.giving_up)
    assert service.asked[2:] == ["POST /v1/runs/r1/cancel"]


async def test_the_service_says_how_long_to_wait(asking):
    busy = trouble(503, **{"Retry-After": "1"})
    for method, last in (("get_run", ENDED), ("events", WHOLE)):
        _, service = await asking([busy, last], method, "r1")
        assert 1.0 <= service.times[1] - service.times[0] < 10


async def test_the_service_may_say_until_when_to_wait(asking):
    until = datetime.now(UTC) + timedelta(seconds=2)
    busy = trouble(503, **{"Retry-After": format_datetime(until, usegmt=True)})
    ended, service = await asking([busy, ENDED], "get_run", "r1")
    assert ended.status == "succeeded"
    assert 0.9 <= service.times[1] - service.times[0] < 10


@pytest.mark.parametrize("lost", [BROKEN, httpx.RemoteProtocolError("closed"), REFUSED])
async def test_a_call_whose_connection_is_lost_is_made_again_if_it_may_be(asking, lost):
    ended, _ = await asking([lost, ENDED], "get_run", "r1")
    assert ended.status == "succeeded"
    for method, words in (("create_run", [TASK]), ("delete_session", ["s1"])):
        error, service = await asking([lost], method, *words)
        assert isinstance(error, ConnectionFailed)
        assert len(service.requests) == 1


async def test_an_answer_that_does_not_come_in_time_is_not_asked_for_again(asking):
    error, service = await asking([httpx.ReadTimeout("late")], "get_run", "r1")
    assert isinstance(error, RequestTimeout)
    assert len(service.requests) == 1


@pytest.mark.parametrize("told", ["soon", "²", "", "-5"])
async def test_a_wait_that_is_no_number_is_passed_over(asking, told):
    busy = partial(httpx.Response, 503, headers=[(b"Retry-After", told.encode())])
    ended, _ = await asking([busy, ENDED], "get_run", "r1")
    assert ended.status == "succeeded"


DEEP: dict[str, object] = {}
for _ in range(5000):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("method", "words", "param"),
    [("score", [5], "messages"),
     ("score", [[{"role": "user"}], 5], "candidates"),
     ("lookahead", [5], "messages"),
     ("select", [5], "trajectories"),
     ("score", [[{"role": "user", "content": "\ud800"}]], None),
     ("score", [[{"role": "user", "content": [{"text": "\ud800"}]}]], None),
     ("score", [[{"role": "user", "content": [DEEP]}]], None),
     ("score", [[{"role": "user", "content": [{"a": object()}]}]], None),
     ("get_run", [""], "run_id")],
)  # fmt: skip
async def test_what_cannot_be_sent_is_a_bad_request(asking, method, words, param):
    error, service = await asking([ENDED], method, *words)
    assert isinstance(error, BadRequest)
    assert (error.param, service.asked) == (param, [])


@pytest.mark.parametrize("key", ["schlüssel", "k1\n", " k1"])
async def test_a_key_that_cannot_be_sent_is_a_bad_request(asking, key):
    error, _ = await asking([ENDED], "get_run", "r1", key=key)
    assert isinstance(error, BadRequest)
    assert error.param == "key"


@pytest.mark.parametrize("run_id", ["abc\n", "..", "a/b", "é", "\ud800", "a?b#c"])
async def test_an_id_is_sent_as_it_is(asking, run_id):
    _, service = await asking([trouble(404)], "get_run", run_id)
    path = service.requests[0].url.raw_path
    assert path.startswith(b"/v1/runs/")
    assert path.count(b"/") == 3
    assert b"?" not in path
