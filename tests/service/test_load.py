"""Many calls at once, callers that leave, and what fails under them: nothing is left taken.

Over real HTTP to a policy and a judge that are given by a host's name, as real ones are; on both
event loops, for connections are made and given up differently on them.
"""

import asyncio
import random
import time
from collections import Counter
from contextlib import asynccontextmanager

import httpx
import pytest
import uvloop
from starlette.responses import JSONResponse

from service.app import create_app
from service.settings import EndpointPolicy, Settings, YesNoCriticSettings
from service.transport import Transport
from tests.judging import judging
from tests.upstream import serving, upstream

SOON = 20.0
"""Seconds: a bound that only what hangs does not keep."""
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
CHAT = "/v1/chat/completions"
BODIES = {
    CHAT: {},
    "/v1/responses": {"max_output_tokens": 9},
    "/v1/messages": {"max_tokens": 9},
}
MESSAGES = [{"role": "user", "content": "hi"}]


def body(path=CHAT, **fields):
    said = {"input": "hi"} if path == "/v1/responses" else {"messages": MESSAGES}
    return {"model": "p"} | BODIES[path] | said | fields


class World:
    """The service between an upstream, a judge and a client."""

    def __init__(self, up, judge, app, http):
        self.up, self.judge, self.app, self.http = up, judge, app, http

    @property
    def context(self):
        return self.app.state.context

    async def ask(self, path=CHAT, **fields):
        return await self.http.post(path, json=body(path, **fields))

    def asking(self, *given, **fields):
        return asyncio.create_task(self.ask(*given, **fields))

    def connectors(self):
        """What makes and keeps connections, to the policy and to the judge."""
        policy, judge = self.context.parts.policies["p"], self.context.parts.critics["j"]
        clients = [*policy._replicas, judge.endpoint.client]
        return [client._transport.session.connector for client in clients]

    def taken(self):
        """What is held of what is limited, here and there."""
        return {
            "permits": self.context.under_way,
            "generations": self.up.under_way,
            "judgements": self.judge.under_way,
            "waiting": sum(len(one._waiters) for one in self.connectors()),
            "connections": sum(len(one._acquired) for one in self.connectors()),
        }

    async def nothing_taken(self, seconds):
        end = time.monotonic() + seconds
        while any(self.taken().values()):
            assert time.monotonic() < end, self.taken()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def a_world(redis_url, n=True, **settings):
    async with upstream() as up, judging() as judge:
        given = Settings(
            policies={"p": EndpointPolicy(url=by_name(up.url), model="up", timeout=60, n=n)},
            critics={
                "j": YesNoCriticSettings(type="yes_no", url=f"{by_name(judge.url)}/v1", model="j")
            },
            redis_url=redis_url,
            worker=False,
            **settings,
        )
        app = create_app(given)
        # a connection each: one that the server closes as it is used again would fail its call
        client = {"transport": Transport(httpx.Limits()), "headers": {"connection": "close"}}
        async with (
            serving(app) as url,
            httpx.AsyncClient(base_url=url, timeout=120, **client) as http,
        ):
            yield World(up, judge, app, http)


def by_name(url):
    return url.replace("127.0.0.1", "localhost")


@pytest.fixture
async def world(redis_url):
    async with a_world(redis_url) as made:
        yield made


async def until(true):
    async with asyncio.timeout(SOON):
        while not true():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("n", [True, False], ids=["one request", "K requests"])
@pytest.mark.parametrize(
    ("loop", "calls"),
    [("asyncio", 100), ("uvloop", 100), pytest.param("uvloop", 1000, marks=pytest.mark.slow)],
)
def test_of_many_calls_whose_callers_leave_at_random_nothing_is_left(redis_url, loop, n, calls):
    async def main():
        async with a_world(redis_url, n, concurrent_requests=calls) as world:
            await _many(world, calls)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


async def _many(world, calls):
    world.up.messages = [{"content": text} for text in "abcd"]
    world.up.delays = [0.05, 0.4, 0.1, 0.2]
    rng = random.Random(calls)

    async def one(number):
        asking = world.asking(stream=number % 2 == 0, pilotfish={"session": f"s{number}"})
        leaves = rng.random() < 0.5
        await asyncio.wait({asking}, timeout=rng.uniform(0, 3) if leaves else None)
        if not asking.done():
            asking.cancel()
            await asyncio.wait({asking})
            return "left"
        answer = asking.result()
        assert answer.status_code == 200, answer.text
        assert "error" not in answer.text
        return "answered"

    became = Counter(await asyncio.gather(*(one(number) for number in range(calls))))
    assert became["answered"] >= calls // 3
    await world.nothing_taken(SOON)
    again = await asyncio.gather(*(world.ask() for _ in range(20)))
    assert {answer.status_code for answer in again} == {200}
    assert not any(answer.json()["pilotfish"]["degraded"] for answer in again)
    await world.nothing_taken(SOON)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [True, False], ids=["one request", "K requests"])
@pytest.mark.parametrize("loop", LOOPS)
def test_who_leaves_frees_generations_and_scorings_within_a_second(redis_url, loop, n, stream):
    async def main():
        async with a_world(redis_url, n) as world:
            world.up.messages = [{"content": text} for text in "abcd"]
            world.up.delays = [0.0, 0.0, 30.0, 30.0] if n else [30.0]
            world.judge.open.clear()
            asking = world.asking(stream=stream)
            # two candidates, and the state that is read ahead
            await until(lambda: world.judge.under_way == (3 if n else 1))
            await until(lambda: world.up.under_way == (1 if n else 4))
            asking.cancel()
            await world.nothing_taken(1.0)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
async def test_who_leaves_an_unguided_call_frees_it_within_a_second(world, path, stream):
    world.up.delays = [30.0]
    asking = world.asking(path, model="p:plain", stream=stream)
    await until(lambda: world.up.under_way)
    assert world.context.under_way == 1
    asking.cancel()
    await world.nothing_taken(1.0)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("held", ["p", "p:plain"])
@pytest.mark.parametrize("over", ["p", "p:plain"])
async def test_over_the_limit_every_call_is_told_so_at_once(world, path, held, over):
    world.context.settings.concurrent_requests = 2
    world.up.delays = [30.0]
    asking = [world.asking(path, model=held, stream=stream) for stream in (False, True)]
    await until(lambda: world.up.under_way == 2)
    async with asyncio.timeout(1.0):
        answers = [await world.ask(path, model=over, stream=stream) for stream in (False, True)]
    for answer in answers:
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.json()["error"]["type"] == "rate_limit_error"
    for one in asking:
        one.cancel()
    await world.nothing_taken(1.0)
    world.up.delays = [0.0]
    assert (await world.ask(path, model=over)).status_code == 200


async def test_of_many_calls_over_the_limit_the_others_are_told_so_and_those_in_are_answered(world):
    world.context.settings.concurrent_requests = 20
    world.up.gate = asyncio.Event()
    asking = [world.asking() for _ in range(20)]
    await until(lambda: world.up.under_way == 20)
    over = await asyncio.gather(*(world.ask(stream=i % 2 == 0) for i in range(200)))
    assert {answer.status_code for answer in over} == {429}
    world.up.gate.set()
    assert {answer.status_code for answer in await asyncio.gather(*asking)} == {200}
    await world.nothing_taken(1.0)


async def test_a_body_that_never_comes_takes_no_permit(world):
    sending, began = asyncio.Event(), asyncio.Event()

    async def slowly():
        yield b"{"
        began.set()
        await sending.wait()

    world.context.settings.concurrent_requests = 1
    async with httpx.AsyncClient(base_url=world.http.base_url) as client:
        slow = asyncio.create_task(client.post(CHAT, content=slowly()))
        async with asyncio.timeout(SOON):
            await began.wait()
        assert (await world.ask()).status_code == 200
        slow.cancel()
        await asyncio.wait({slow})


async def test_what_fails_under_a_call_gives_its_permit_back(world):
    world.up.broken = {i: JSONResponse({"error": {"message": "no"}}, 422) for i in range(99)}
    for model in ("p", "p:plain", "nobody"):
        for path in BODIES:
            for stream in (False, True):
                answer = await world.ask(path, model=model, stream=stream)
                assert answer.status_code in (400, 404, 422, 502)
    await world.nothing_taken(1.0)


async def test_bad_samples_and_a_dead_critic_fail_no_call_of_many(redis_url):
    async with a_world(redis_url, n=False) as world:
        world.up.messages = [{"content": text} for text in "abcd"]
        bad = JSONResponse({"error": {"message": "no"}}, 422)
        calls = 50
        # of those of one call, which follow each other, never more than three
        world.up.broken = dict.fromkeys(range(0, 4 * calls, 4), bad)
        world.judge.always = JSONResponse({"error": {"message": "dead"}}, 500)
        answers = []
        for first in range(0, calls, 10):
            asked = (world.ask() for _ in range(first, first + 10))
            answers += await asyncio.gather(*asked)
        assert {answer.status_code for answer in answers} == {200}
        assert all(answer.json()["pilotfish"]["degraded"] for answer in answers)
        await world.nothing_taken(SOON)


async def test_deadlines_are_kept_by_many_calls(world):
    world.up.messages = [{"content": text} for text in "abcd"]
    world.up.delays = [0.0, 0.0, 30.0]
    async with asyncio.timeout(SOON):  # the last candidates would come later
        answers = await asyncio.gather(
            *(world.ask(stream=i % 2 == 0, pilotfish={"deadline": 1.0}) for i in range(30))
        )
    assert {answer.status_code for answer in answers} == {200}
    assert not any("error" in answer.text for answer in answers)
    await world.nothing_taken(1.0)
