"""A policy's endpoint: closed connections, nonsense, answers that never end."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from starlette.responses import Response, StreamingResponse

from pilotfish import Message
from pilotfish.strategy import Sampling
from search.errors import PolicyError
from service.policies import openai_endpoint
from service.policies.openai_endpoint import OpenAIPolicy
from service.settings import EndpointPolicy
from tests.upstream import upstream

STATE = [Message.user("hi")]
ANSWER = json.dumps(
    {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    }
).encode()


@pytest.mark.parametrize("continuous", [True, False])
async def test_what_a_stream_cost_is_known_before_its_end_where_it_says_so(continuous):
    async with upstream() as up:
        up.delays = [0.0, 0.3]
        settings = EndpointPolicy(url=up.url, model="m", timeout=20, continuous_usage=continuous)
        policy = OpenAIPolicy("p", settings)
        samples = policy.sample(STATE, 2, Sampling())
        first = await anext(samples)
        await samples.aclose()
        await policy.close()
        assert first.prompt_tokens == (11 if continuous else 0)


@asynccontextmanager
async def endpoint(*closes):
    """Answers every request but those numbered in ``closes``: there it hangs up after the seconds
    given. Yields its policy and the numbers of the requests that came."""
    came = []

    async def serve(reader, writer):
        while head := await reader.readuntil(b"\r\n\r\n"):
            fields = dict(line.split(": ") for line in head.decode().split("\r\n")[1:-2])
            await reader.readexactly(
                int({k.lower(): v for k, v in fields.items()}["content-length"])
            )
            came.append(len(came))
            hang_up = dict(closes).get(came[-1])
            if hang_up is not None:
                await asyncio.sleep(hang_up)
                return writer.close()
            lines = ["HTTP/1.1 200 OK", "content-type: application/json",
                     f"content-length: {len(ANSWER)}", "", ""]  # fmt: skip
            writer.write("\r\n".join(lines).encode() + ANSWER)
            await writer.drain()

    handlers = set()

    async def quietly(reader, writer):
        handlers.add(asyncio.current_task())
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(quietly, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    policy = OpenAIPolicy("p", EndpointPolicy(url=url, model="m", timeout=20))
    yield policy, came
    await policy.close()
    server.close()
    await asyncio.gather(*handlers)


async def ask(policy):
    return [sample.message.text async for sample in policy.sample(STATE, 1, Sampling())]


async def test_a_kept_connection_that_was_closed_costs_nothing():
    async with endpoint((1, 0.0)) as (policy, came):
        assert await ask(policy) == ["yes"]
        assert await ask(policy) == ["yes"]
        assert came == [0, 1, 2]


async def test_a_connection_that_breaks_later_may_have_generated(monkeypatch):
    monkeypatch.setattr(openai_endpoint, "STALE_WITHIN", 0.02)
    async with endpoint((0, 0.1)) as (policy, came):
        with pytest.raises(PolicyError):
            await ask(policy)
        assert came == [0]


def answer(**changes):
    """A whole chat completion as JSON; ``changes`` are of its one choice, or of the top."""
    top = {name: changes.pop(name) for name in ("usage", "choices") if name in changes}
    choice = {"index": 0, "message": {"role": "assistant", "content": "a"}, **changes}
    return json.dumps({"choices": [choice]} | top)


CALL = {"id": "c", "type": "function", "function": {"name": "bash", "arguments": "{}"}}
NONSENSE = {
    "no JSON": "<html>",
    "too deep": "[" * 100_000 + "]" * 100_000,
    "no object": "[1]",
    "no choices": "{}",
    "no message": answer(message=None),
    "another's role": answer(message={"role": "user", "content": "a"}),
    "text that is none": answer(message={"content": [{"type": "text", "text": 5}]}),
    "half a character": answer(message={"content": "\ud800"}),
    "a function that is none": answer(message={"tool_calls": [CALL | {"function": "bash"}]}),
    "an id that is none": answer(message={"tool_calls": [CALL | {"id": 5}]}),
    "negative index": answer(index=-1),
    "negative tokens": answer(usage={"prompt_tokens": 1, "completion_tokens": -1}),
    "prompt tokens in words": answer(usage={"prompt_tokens": "many", "completion_tokens": 1}),
    "no number": answer(logprobs={"content": [{"token": "a", "logprob": float("nan")}]}),
}


async def sampled(policy, n=1, **extra):
    samples = policy.sample(STATE, n, Sampling(extra=extra))
    return [sample async for sample in samples]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("text", NONSENSE.values(), ids=NONSENSE)
async def test_nonsense_is_the_policys_failure(text, at_once):
    async with upstream() as up:
        policy = OpenAIPolicy("p", EndpointPolicy(url=up.url, model="m", timeout=20, n=at_once))
        up.broken = {i: Response(text, media_type="application/json") for i in range(9)}
        with pytest.raises(PolicyError):
            await asyncio.wait_for(sampled(policy), 10)
        if not at_once:
            with pytest.raises(PolicyError):
                await asyncio.wait_for(sampled(policy, 3), 10)
        await policy.close()


@pytest.mark.parametrize(
    "chunk",
    [
        "<html>",
        "[" * 100_000,
        "[1]",
        '{"choices": [{"delta": {}}]}',
        '{"choices": [{"index": 0, "delta": {"content": "\\ud800"}, "finish_reason": "stop"}]}',
        '{"choices": [], "usage": {"prompt_tokens": "many"}}',
        '{"error": {"message": "out of memory"}}',
    ],
)
async def test_nonsense_in_a_stream_is_the_policys_failure(chunk):
    async with upstream() as up:
        policy = OpenAIPolicy("p", EndpointPolicy(url=up.url, model="m", timeout=20))
        up.broken[0] = Response(f"data: {chunk}\n\n", media_type="text/event-stream")
        with pytest.raises(PolicyError):
            await asyncio.wait_for(sampled(policy, 2), 10)
        await policy.close()


async def test_one_choice_of_nonsense_costs_only_itself():
    bad = [{"id": "c", "type": "function", "function": {"name": 5, "arguments": ""}}]
    async with upstream() as up:
        policy = OpenAIPolicy("p", EndpointPolicy(url=up.url, model="m", timeout=20))
        up.messages = [{"content": "", "tool_calls": bad}, {"content": "a"}, {"content": "b"}]
        samples = await asyncio.wait_for(sampled(policy, 3), 10)
        assert [s.message and s.message.text for s in samples] == [None, "a", "b"]
        assert "no choice of a chat completion" in samples[0].error
        await policy.close()


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("beside", ["\ud800", float("nan")])
async def test_nonsense_beside_the_choices_is_the_policys_failure(n, beside):
    async with upstream() as up:
        policy = OpenAIPolicy("p", EndpointPolicy(url=up.url, model="m", timeout=20))
        choices = [{"index": 0, "message": {"content": "a"}}] if n == 1 else []
        chunk = json.dumps({"choices": choices, "extra": beside})
        whole = Response(chunk, media_type="application/json")
        stream = Response(f"data: {chunk}\n\n", media_type="text/event-stream")
        up.broken[0] = whole if n == 1 else stream
        with pytest.raises(PolicyError, match="not a chat completion"):
            await asyncio.wait_for(sampled(policy, n), 10)
        await policy.close()


async def test_a_request_that_breaks_in_an_unforeseen_way_costs_its_own_sample(monkeypatch):
    async with upstream() as up:
        policy = OpenAIPolicy("p", EndpointPolicy(url=up.url, model="m", timeout=20, n=False))
        whole, broken = policy._whole, []

        async def sometimes(body, session):
            if not broken:
                broken.append(body)
                raise RuntimeError("unforeseen")
            return await whole(body, session)

        monkeypatch.setattr(policy, "_whole", sometimes)
        samples = await asyncio.wait_for(sampled(policy, 3, seed="not a number"), 10)
        assert sorted(sample.message is None for sample in samples) == [False, False, True]
        assert "unforeseen" in next(s.error for s in samples if s.message is None)
        await policy.close()


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("drop", ['data: {"choices": []}\n\n', ": wait\n\n", "."])
async def test_an_answer_that_drips_for_ever_ends_at_the_timeout(n, drop):
    async def drip():
        while True:
            yield drop
            await asyncio.sleep(0.02)

    async with upstream() as up:
        policy = OpenAIPolicy("p", EndpointPolicy(url=up.url, model="m", timeout=0.3))
        up.broken[0] = StreamingResponse(drip(), media_type="text/event-stream")
        with pytest.raises(PolicyError, match=r"no answer from .* in 0\.3 s"):
            await asyncio.wait_for(sampled(policy, n), 10)
        await policy.close()
