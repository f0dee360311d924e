"""An OpenAI-compatible endpoint that says what a test tells it to, over real HTTP. It records what
it was asked, and whether its caller left before the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


class Upstream:
    """``messages``: the i-th candidate's message. ``delays``: seconds before it is complete."""

    def __init__(self) -> None:
        self.url = ""
        self.messages: list[dict[str, Any]] = [{"content": "hello"}]
        self.delays: list[float] = [0.0]
        self.broken: dict[int, Response] = {}
        """Answers by number of request, instead of a completion."""
        self.bodies: list[dict[str, Any]] = []
        self.beside: dict[str, Any] = {}
        """Fields of every answer and chunk beside the common ones."""
        self.usage: dict[str, Any] = {}
        """Fields of the usage beside its counts."""
        self.choice: dict[str, Any] = {}
        """Fields of every choice beside the common ones; ``finish_reason`` instead of its own."""
        self.gate: asyncio.Event | None = None
        """Waited for in a stream before the last delta of each candidate."""
        self.tokens: int | None = None
        """What ``/tokenize`` counts; where it is not set, there is none."""
        self.left = asyncio.Event()
        """Set when a caller leaves before the end of its answer."""
        self.under_way = 0
        """Requests whose candidates are not all complete and whose caller has not left."""

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        if (answer := self.broken.get(len(self.bodies) - 1)) is not None:
            return answer
        n = body.get("n", 1)
        if body.get("stream"):
            return StreamingResponse(self._stream(n, body), media_type="text/event-stream")
        if not await self._generated(request):
            return Response(status_code=499)
        choices = [self._choice(i) for i in range(n)]
        return JSONResponse(self._head("chat.completion") | {"choices": choices} | self._usage(n))

    async def _generated(self, request: Request) -> bool:
        """Whether the caller waited for the first candidate, as vLLM stops where it does not."""
        self.under_way += 1
        leaving = asyncio.create_task(request.receive())
        try:
            async with asyncio.timeout(self._delay(0)):
                await leaving
            self.left.set()
            return False
        except TimeoutError:
            return True
        finally:
            leaving.cancel()
            self.under_way -= 1

    async def tokenize(self, request: Request) -> Response:
        if self.tokens is None:
            return JSONResponse({"detail": "Not Found"}, 404)
        self.bodies.append(await request.json())
        return JSONResponse({"count": self.tokens, "max_model_len": 4096, "tokens": []})

    async def _stream(self, n: int, body: dict[str, Any]) -> AsyncIterator[str]:
        self.under_way += 1
        try:
            head = self._head("chat.completion.chunk")
            at_end = self._usage(n)
            if body.get("stream_options", {}).get("continuous_usage_stats"):
                head |= self._usage(1)
            began = asyncio.get_running_loop().time()
            for i in sorted(range(n), key=self._delay):
                now = asyncio.get_running_loop().time() - began
                await asyncio.sleep(max(0.0, self._delay(i) - now))
                deltas = self._deltas(i)
                for delta in deltas:
                    if self.gate is not None and delta is deltas[-1]:
                        await self.gate.wait()
                    part = {"index": i, "delta": delta, "logprobs": _logprobs(i)}
                    yield _event(head | {"choices": [part | {"finish_reason": None}]})
                end = {"index": i, "delta": {}, "finish_reason": self._finish(i)}
                end |= self.choice
                yield _event(head | {"choices": [end]})
            yield _event(head | {"choices": []} | at_end)
            yield "data: [DONE]\n\n"
        except (GeneratorExit, asyncio.CancelledError):
            self.left.set()
            raise
        finally:
            self.under_way -= 1

    def _message(self, i: int) -> dict[str, Any]:
        return {"role": "assistant", **self.messages[i % len(self.messages)]}

    def _delay(self, i: int) -> float:
        return self.delays[i % len(self.delays)]

    def _finish(self, i: int) -> str:
        return "tool_calls" if self._message(i).get("tool_calls") else "stop"

    def _choice(self, i: int) -> dict[str, Any]:
        return {
            "index": i,
            "message": self._message(i),
            "logprobs": _logprobs(i),
            "finish_reason": self._finish(i),
            **self.choice,
        }

    def _deltas(self, i: int) -> list[dict[str, Any]]:
        message = self._message(i)
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        for name, value in message.items():
            if name == "tool_calls":
                for at, call in enumerate(value):
                    arguments = call["function"]["arguments"]
                    first = call | {"function": call["function"] | {"arguments": ""}}
                    deltas.append({"tool_calls": [first | {"index": at}]})
                    for piece in (arguments[:5], arguments[5:]):
                        part = {"index": at, "function": {"arguments": piece}}
                        deltas.append({"tool_calls": [part]})
            elif name != "role" and value:
                deltas += [{name: value[:3]}, {name: value[3:]}]
        return deltas

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": "up-1", "object": kind, "created": 1, "model": "up", **self.beside}

    def _usage(self, n: int) -> dict[str, Any]:
        counts = {"prompt_tokens": 11, "completion_tokens": 7 * n, "total_tokens": 11 + 7 * n}
        return {"usage": counts | self.usage}


def _logprobs(i: int) -> dict[str, Any]:
    return {"content": [{"token": "t", "logprob": -1.0 - i, "bytes": None, "top_logprobs": []}]}


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """``app`` on a free port of this machine, in this event loop; gives its URL."""
    config = uvicorn.Config(
        app, port=0, log_level="warning", lifespan="on", ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    try:
        while not server.started:
            if task.done():
                task.result()
                raise RuntimeError("the server stopped before it started")
            await asyncio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 20)


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    up = Upstream()
    routes = [
        Route("/v1/chat/completions", up.complete, methods=["POST"]),
        Route("/tokenize", up.tokenize, methods=["POST"]),
    ]
    app = Starlette(routes=routes)
    async with serving(app) as url:
        up.url = f"{url}/v1"
        yield up
