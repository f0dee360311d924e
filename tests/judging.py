"""An endpoint that judges, over real HTTP: chat completions and ``/classify``. What it says is a
function of what it is asked, so that the same question has the same answer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.upstream import serving

LABELS = 26


def expected_q(text: str) -> float:
    """Of a prompt: a tenth, from 0.1 to 0.9."""
    return (sum(text.encode()) % 9 + 1) / 10


def expected_logits(row: list[int], labels: int) -> list[float]:
    return [(sum(row) + i) % 7 - 3.0 for i in range(labels)]


class Judging:
    """``instead``: answers by number of request. ``always``: the answer to each."""

    def __init__(self) -> None:
        self.url = ""
        self.labels = LABELS
        self.bodies: list[dict[str, Any]] = []
        self.instead: dict[int, Response] = {}
        self.always: Response | None = None
        self.texts: list[str] | None = None
        """What the choices of a completion say, in turn."""
        self.first: list[tuple[str, float]] | None = None
        """The tokens at which an answer begins, with their log-probabilities; the first is said."""
        self.listed: int | None = None
        """How many of them are listed."""
        self.open = asyncio.Event()
        self.open.set()
        self.under_way = self.most = self.left = 0

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        number = len(self.bodies) - 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self._wait(request)
        finally:
            self.under_way -= 1
        if (instead := self.instead.get(number, self.always)) is not None:
            return instead
        if request.url.path == "/classify":
            rows = [expected_logits(row, self.labels) for row in body["input"]]
            return JSONResponse(
                {"data": [{"index": i, "probs": row} for i, row in enumerate(rows)]}
            )
        return JSONResponse({"choices": self._choices(body, number)})

    async def _wait(self, request: Request) -> None:
        await asyncio.sleep(0.001)
        while not self.open.is_set():
            if await request.is_disconnected():
                self.left += 1
                return
            await asyncio.sleep(0.005)

    def _choices(self, body: dict[str, Any], number: int) -> list[dict[str, Any]]:
        q = expected_q(body["messages"][-1]["content"])
        if body.get("logprobs"):
            top = self.first or [("YES", math.log(q)), (" no", math.log(1 - q))]
            entries = [{"token": token, "logprob": logprob} for token, logprob in top]
            content = [entries[0] | {"top_logprobs": entries[: self.listed]}]
            message = {"role": "assistant", "content": top[0][0]}
            return [{"index": 0, "message": message, "logprobs": {"content": content}}]
        n = body.get("n", 1)
        verdicts = ["GOOD" if i < round(q * n) else "BAD" for i in range(n)]
        texts = self.texts or [f"I think.\nVERDICT: {verdict}" for verdict in verdicts]
        offset = number if n == 1 else 0
        messages = [{"role": "assistant", "content": texts[(offset + i) % len(texts)]}
                    for i in range(n)]  # fmt: skip
        return [{"index": i, "message": message} for i, message in enumerate(messages)]


@asynccontextmanager
async def judging() -> AsyncIterator[Judging]:
    judge = Judging()
    paths = ("/v1/chat/completions", "/classify")
    app = Starlette(routes=[Route(path, judge.answer, methods=["POST"]) for path in paths])
    async with serving(app) as url:
        judge.url = url
        yield judge
