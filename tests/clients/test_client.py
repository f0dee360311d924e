"""The synchronous SDK, and what both clients do when the service is in trouble."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from pilotfish import AsyncPilotfish, Lookahead, Message, Pilotfish, Selection, Strategy
from pilotfish.errors import (
    ApiStatusError,
    AuthenticationFailed,
    BadRequest,
    Conflict,
    ConnectionFailed,
    NotFound,
    Overloaded,
    PermissionDenied,
    RequestTimeout,
    ServerFailed,
    TooLarge,
    UnexpectedAnswer,
    Unprocessable,
)
from search.fakes import FakeSandboxes
from tests.clients.conftest import TASK
from tests.upstream import serving


async def test_an_agent_that_samples_itself_asks_which_candidate_to_act_on(service):
    state = [Message.user("Look around.")]
    own = [Message.assistant("```bash\nls\n```"), Message.assistant("```bash\npwd\n```")]
    async with AsyncPilotfish(service[0], "k1") as client:
        decision = await client.guide(state, own, session="mine")
    assert (decision.chosen, decision.message) == (1, own[1])
    assert [candidate.q for candidate in decision.candidates] == [0.4, 0.9]

    def the_same():
        with Pilotfish(service[0], "k1") as client:
            return client.guide(state, own)

    assert (await asyncio.to_thread(the_same)).chosen == 1
    assert service[1].state.context.parts.policies["p"].asked == []


async def test_the_synchronous_client_does_all_that_the_other_does(service):
    def everything():
        with Pilotfish(service[0], "k1") as client:
            run = client.run(TASK, Strategy(lookahead=Lookahead(k=2), selection=Selection(n=2)))
            trajectories = client.trajectories(run.id)
            assert client.trajectory(run.id, 1) == trajectories[1]
            assert client.select(trajectories).chosen == run.selected
            assert next(client.list_runs()).id == run.id
            state = trajectories[0].prefix
            action = trajectories[0].steps[0].decision.message
            assert client.score(state, [action]) == [0.9]
            assert client.lookahead(state, Lookahead(k=2)).message == action
            assert client.cancel_run(run.id).status == "succeeded"
            with pytest.raises(NotFound):
                client.get_run("nope")
            return run

    run = await asyncio.to_thread(everything)
    assert run.status == "succeeded"


class Troubled:
    """Answers with what it is told to, and counts."""

    def __init__(self):
        self.answers = []
        self.calls = 0
        self.keys = []

    async def answer(self, request):
        self.calls += 1
        self.keys.append(request.headers.get("idempotency-key"))
        answer = self.answers[min(self.calls, len(self.answers)) - 1]
        if answer is None:
            await asyncio.sleep(60)
        return answer


@pytest.fixture
async def troubled():
    troubled = Troubled()
    routes = [Route("/{path:path}", troubled.answer, methods=["GET", "POST"])]
    async with serving(Starlette(routes=routes)) as url:
        yield url, troubled


def error(status, **fields):
    return JSONResponse({"error": {"message": "m", "code": "c", "param": "p", **fields}}, status)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, BadRequest), (401, AuthenticationFailed), (403, PermissionDenied), (404, NotFound),
     (409, Conflict), (413, TooLarge), (422, Unprocessable), (429, Overloaded),
     (500, ServerFailed), (502, ServerFailed)],
)  # fmt: skip
async def test_every_kind_of_failure_has_its_exception(troubled, status, kind):
    url, service = troubled
    service.answers = [error(status)]
    async with AsyncPilotfish(url, max_retries=0) as client:
        with pytest.raises(ApiStatusError, match="m") as caught:
            await client.get_run("x")
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.code, caught.value.param) == (status, "c", "p")


async def test_what_changes_nothing_is_tried_again_and_what_does_is_not(troubled):
    url, service = troubled
    service.answers = [error(503), error(429), JSONResponse({"critic": "c", "q": [0.5]})]
    async with AsyncPilotfish(url) as client:
        assert await client.score([{"role": "user", "content": "x"}]) == [0.5]
        assert service.calls == 3
        service.answers, service.calls = [error(503)], 0
        with pytest.raises(ServerFailed):
            await client.create_run(TASK)
    assert service.calls == 1


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_trouble_that_may_pass_is_asked_twice_more_and_a_wrong_request_once(troubled, status):
    url, service = troubled
    service.answers = [error(status)]
    async with AsyncPilotfish(url) as client:
        with pytest.raises(ApiStatusError):
            await client.get_run("x")
        assert service.calls == 3
        service.answers, service.calls = [error(409)], 0
        with pytest.raises(Conflict):
            await client.pause_run("x")
        assert service.calls == 1


async def test_a_run_with_an_idempotency_key_is_asked_for_again(troubled):
    url, service = troubled
    service.answers = [error(503)]
    async with AsyncPilotfish(url, max_retries=1) as client:
        with pytest.raises(ServerFailed):
            await client.create_run(TASK, idempotency_key="once")
        with pytest.raises(ServerFailed):
            await client.with_options(idempotency_key="again").create_run(TASK)
    assert service.calls == 4
    assert service.keys == ["once", "once", "again", "again"]


async def test_an_answer_that_is_not_json_is_still_an_error_of_its_kind(troubled):
    url, service = troubled
    service.answers = [PlainTextResponse("bad gateway", 502)]
    async with AsyncPilotfish(url, max_retries=0) as client:
        with pytest.raises(ServerFailed, match="the service answers 502"):
            await client.get_run("x")


async def test_what_answers_but_is_not_the_service_is_said_to_be_that(troubled):
    url, service = troubled
    service.answers = [PlainTextResponse("<html>welcome</html>")]
    async with AsyncPilotfish(url) as client:
        for call in (client.get_run, client.trajectories):
            with pytest.raises(UnexpectedAnswer, match="Is it this version"):
                await call("x")


async def test_a_line_separator_in_an_output_does_not_break_the_download(service):
    url, app = service
    output = "a\u2028b\x85c\u2029"
    app.state.context.parts.sandboxes["fake"] = FakeSandboxes(lambda command: output)
    async with AsyncPilotfish(url, "k1") as client:
        run = await client.run(TASK)
        [trajectory] = await client.trajectories(run.id)
    assert trajectory.steps[0].observation.output == output


async def test_no_answer_and_no_service_are_told_apart(troubled):
    url, service = troubled
    service.answers = [None]
    async with AsyncPilotfish(url, timeout=0.2) as client:
        with pytest.raises(RequestTimeout):
            await client.get_run("x")
    async with AsyncPilotfish("http://127.0.0.1:9", max_retries=0) as client:
        with pytest.raises(ConnectionFailed, match="Is the service up"):
            await client.get_run("x")


def test_the_client_needs_neither_torch_nor_the_service():
    code = "import sys, json, pilotfish.cli; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"torch", "transformers", "fastapi", "redis", "service", "search", "critic"}
