"""A policy and a judge behind OpenAI's chat completions that take a fixed time and nothing else: a
server of its own, for benchmarks. Knows nothing of what is measured.

    python -m benchmarks.timed_models PORT SECONDS_OF_EACH_CANDIDATE SECONDS_OF_A_SCORING [CHUNKS]

The i-th candidate of a step takes the i-th of the comma-separated seconds, whether one request asks
for all of them or each has its own. What asks for a score, by the model ``judge`` or by its words,
takes the seconds of a scoring and is answered in all forms that are read.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

ASKS_FOR_A_SCORE = re.compile(r"\b(rate|rating|score|better)\b", re.I)
WORDS = "the quick brown fish swims ahead of the large one and looks around "


class TimedModels:
    """``POST /reset`` begins a new step, in which the candidate of number ``fail`` is answered with
    an error; ``GET /seen`` tells which fields requests for candidates had since."""

    def __init__(self, seconds: list[float], scoring: float, chunks: int = 4) -> None:
        self._seconds, self._scoring, self._chunks = seconds, scoring, chunks
        self._asked = 0
        self._fail: int | None = None
        self._seen: list[dict[str, Any]] = []

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/reset", self._reset, methods=["POST"]),
                Route("/seen", self._tell),
            ]
        )

    async def _models(self, request: Request) -> Response:
        names = ("policy", "judge")
        return JSONResponse({"data": [{"id": name, "object": "model"} for name in names]})

    async def _reset(self, request: Request) -> Response:
        self._fail = (await request.json()).get("fail")
        self._asked, self._seen = 0, []
        return JSONResponse({})

    async def _tell(self, request: Request) -> Response:
        return JSONResponse(self._seen)

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        if _asks_for_a_score(body):
            await asyncio.sleep(self._scoring)
            return JSONResponse(_whole([_scored()]))
        names = ("n", "temperature", "max_tokens")
        self._seen.append({name: body.get(name) for name in names} | {"tools": "tools" in body})
        if body.get("stream"):
            return StreamingResponse(self._stream(body), media_type="text/event-stream")
        indices = [self._next() for _ in range(body.get("n") or 1)]
        await asyncio.sleep(max(self._of(index) for index in indices))
        if self._fail in indices:
            return JSONResponse({"error": {"message": "this sample failed"}}, 422)
        return JSONResponse(_whole([_choice(index, body) for index in indices]))

    def _next(self) -> int:
        self._asked += 1
        return (self._asked - 1) % len(self._seconds)

    def _of(self, index: int) -> float:
        return self._seconds[index % len(self._seconds)]

    async def _stream(self, body: dict[str, Any]) -> AsyncIterator[str]:
        """Each candidate in equal parts over its seconds."""
        n, chunks = body.get("n") or 1, self._chunks
        due = sorted(
            (self._of(index) * (part + 1) / chunks, index, part)
            for index in range(n)
            for part in range(chunks)
        )
        loop = asyncio.get_running_loop()
        began = loop.time()
        for after, index, part in due:
            await asyncio.sleep(began + after - loop.time())
            choice = _choice(index, body)
            ends = part == chunks - 1
            delta: dict[str, Any] = choice["message"] if ends else {"content": WORDS}
            element = {"index": index, "delta": delta, "logprobs": choice["logprobs"]}
            element["finish_reason"] = choice["finish_reason"] if ends else None
            yield _event({"choices": [element]})
        yield _event({"choices": [], "usage": _usage(n)})
        yield "data: [DONE]\n\n"


def _asks_for_a_score(body: dict[str, Any]) -> bool:
    last = body["messages"][-1]["content"]
    return body["model"] == "judge" or bool(ASKS_FOR_A_SCORE.search(str(last)))


def _scored() -> dict[str, Any]:
    top = [{"token": "YES", "logprob": -0.3}, {"token": "NO", "logprob": -1.4}]
    logprobs = {"content": [top[0] | {"top_logprobs": top}]}
    message = {"role": "assistant", "content": '{"score": 7}'}
    return {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "stop"}


def _choice(index: int, body: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": f"{WORDS}{index}"}
    if body.get("tools"):
        function = {"name": "bash", "arguments": json.dumps({"command": f"echo {index}"})}
        call = {"index": 0, "id": f"call_{index}", "type": "function", "function": function}
        message["tool_calls"] = [call]
    return {
        "index": index,
        "message": message,
        "logprobs": {"content": [{"token": "t", "logprob": -1.0}]},
        "finish_reason": "tool_calls" if body.get("tools") else "stop",
    }


def _usage(n: int) -> dict[str, int]:
    return {"prompt_tokens": 100, "completion_tokens": 80 * n, "total_tokens": 100 + 80 * n}


def _whole(choices: list[dict[str, Any]]) -> dict[str, Any]:
    numbered = [choice | {"index": i} for i, choice in enumerate(choices)]
    return _head("chat.completion") | {"choices": numbered, "usage": _usage(len(choices))}


def _head(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "policy"}


def _event(part: dict[str, Any]) -> str:
    return f"data: {json.dumps(_head('chat.completion.chunk') | part)}\n\n"


def main() -> None:
    port, seconds, scoring, *chunks = sys.argv[1:]
    each = [float(one) for one in seconds.split(",")]
    models = TimedModels(each, float(scoring), *map(int, chunks))
    uvicorn.run(models.app(), port=int(port), log_level="error", access_log=False, backlog=4096)


if __name__ == "__main__":
    main()
