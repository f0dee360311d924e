"""A policy's endpoint that closes connections: asked again only where nothing was generated."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from pilotfish import Message
from pilotfish.strategy import Sampling
from search.errors import PolicyError
from service.policies import openai_endpoint
from service.policies.openai_endpoint import OpenAIPolicy
from service.settings import EndpointPolicy

STATE = [Message.user("hi")]
ANSWER = json.dumps(
    {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    }
).encode()


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
