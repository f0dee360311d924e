"""A policy and a judge whose answers are functions of what they are asked, each a server of its own
that may be killed: so the results of a disturbed run can be compared with those of a quiet one.

    python -m tests.chaos.endpoints policy HOST PORT
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
import zlib
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

TURNS = 6
"""Commands of an agent before it submits."""
BETWEEN = 0.03
"""Seconds between two candidates."""
MARK = re.compile(r"mark-\d+-\d+-\d+")


def turn(number: int, candidate: int, seed: int) -> str:
    """What candidate ``candidate`` of turn ``number`` says."""
    if number >= TURNS:
        return f"It is done: mark-{number}-0-{seed % 997}.\n```bash\nsubmit\n```"
    mark = f"mark-{number}-{candidate}-{seed % 997}"
    return f"I go on.\n```bash\necho {mark} >> log; sleep 0.3; wc -l < log\n```"


def expected_q(text: str) -> float:
    """Of a turn: by its mark, in thousandths from 0.05 to 0.95."""
    return (zlib.crc32(MARK.findall(text)[-1].encode()) % 900 + 50) / 1000


async def _complete(request: Request) -> Response:
    body = await request.json()
    number = sum(message["role"] == "assistant" for message in body["messages"])
    texts = [turn(number, i, body.get("seed") or 0) for i in range(body.get("n", 1))]
    return said(texts)


def said(texts: list[str]) -> Response:
    """A policy's answer: each candidate whole, one after the other."""
    return StreamingResponse(_stream(texts), media_type="text/event-stream")


async def _stream(texts: list[str]) -> AsyncIterator[str]:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    for i, text in enumerate(texts):
        await asyncio.sleep(BETWEEN)
        for delta, end in (({"role": "assistant", "content": text}, None), ({}, "stop")):
            choice = {"index": i, "delta": delta, "finish_reason": end}
            yield f"data: {json.dumps(head | {'choices': [choice]})}\n\n"
    counts = {"prompt_tokens": 10, "completion_tokens": 5 * len(texts), "total_tokens": 0}
    yield f"data: {json.dumps(head | {'choices': [], 'usage': counts})}\n\n"
    yield "data: [DONE]\n\n"


async def _judge(request: Request) -> Response:
    body = await request.json()
    await asyncio.sleep(BETWEEN)
    return judged(expected_q(body["messages"][-1]["content"]))


def judged(q: float) -> Response:
    """A judge's answer, YES with this probability."""
    top = [{"token": t, "logprob": math.log(p)} for t, p in (("YES", q), ("NO", 1 - q))]
    content: list[dict[str, Any]] = [{**top[0], "top_logprobs": top}]
    message = {"role": "assistant", "content": "YES"}
    choice = {"index": 0, "message": message, "logprobs": {"content": content}}
    return JSONResponse({"choices": [choice | {"finish_reason": "stop"}]})


ANSWERS = {"policy": _complete, "judge": _judge}

if __name__ == "__main__":
    kind, host, port = sys.argv[1:]
    routes = [Route("/v1/chat/completions", ANSWERS[kind], methods=["POST"])]
    uvicorn.run(Starlette(routes=routes), host=host, port=int(port), log_level="warning")
