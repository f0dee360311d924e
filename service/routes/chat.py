"""``POST /v1/chat/completions``: OpenAI's, guided. Any agent is guided by changing its base URL.

The request goes to the policy as it came, but for ``model``, ``messages`` (the same, encoded anew),
``n``, ``stream``, ``stream_options`` and our own ``pilotfish``; ``logprobs`` are asked for, to
break ties, and taken out of the answer where the caller did not ask. The answer is the chosen
candidate as the policy gave it, with whatever else the policy's answer had; ``usage`` counts all
candidates, and ``pilotfish`` says what was decided.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.types import Receive, Scope, Send

from pilotfish import Decision, Message
from pilotfish.errors import first_wrong
from pilotfish.strategy import Lookahead, Pick, Sampling
from service.errors import ApiError, told
from service.policies.openai_endpoint import OpenAIPolicy
from service.routes.context import Context, InContext, while_present
from service.routes.guide import Recording, guided_step

router = APIRouter(tags=["chat"])
_MESSAGES = TypeAdapter(list[Message])
_OURS = frozenset({"model", "messages", "n", "best_of", "stream", "stream_options", "pilotfish"})


class GuideOptions(BaseModel):
    """The body's ``pilotfish`` object; each field is also a header, ``x-pilotfish-FIELD``, with
    ``-`` for ``_``, which wins over the body."""

    model_config = ConfigDict(extra="forbid")

    k: int | None = Field(default=None, ge=1, le=64)
    pick: Pick = "argmax"
    pick_temperature: float = Field(default=0.05, gt=0)
    threshold: float | None = Field(default=None, ge=0, le=1)
    deadline: float | None = Field(default=None, gt=0)
    critic: str | None = None
    session: str | None = Field(default=None, max_length=200)
    candidates: bool = False
    """Whether the answer shows all candidates."""


class ChatCall(BaseModel):
    """A chat completion request, understood."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    body: dict[str, Any]
    messages: list[Message]
    model: str
    """As the caller wrote it."""
    policy: str
    n: int
    stream: bool
    include_usage: bool
    guide: bool
    k: int
    options: GuideOptions


@router.post("/v1/chat/completions", response_model=None)
async def chat_completions(request: Request, context: InContext) -> Response:
    """OpenAI's chat completions; see the top of this file for what is ours."""
    call = understand(await _json_body(request), request, context)
    policy = context.parts.policy(call.policy)
    if not call.guide and isinstance(policy, OpenAIPolicy):
        return await _plain(request, call, policy)
    critic = context.parts.critic(call.options.critic)
    recording = Recording(policy)

    async def step() -> Decision:
        with context.permit():
            return await guided_step(
                recording, critic, call.messages, _lookahead(call), call.options.session
            )

    if call.stream:
        return await _streamed(call, step(), recording, context.settings.keepalive)
    decision = await while_present(request, step())
    return JSONResponse(_answer(call, decision, recording), headers=_headers(decision))


def understand(body: dict[str, Any], request: Request, context: Context) -> ChatCall:
    """Check the request. Raises: ``ApiError`` 400 or 404 naming the field."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "model: a name is needed; GET /v1/models lists them", param="model")
    policy, alias = _alias(model, context)
    try:
        messages = _MESSAGES.validate_python(body.get("messages"))
    except ValidationError as error:
        where, message = first_wrong(error.errors(), "messages")
        raise ApiError(400, message, param=where) from error
    if not messages:
        raise ApiError(400, "messages: at least one is needed", param="messages")
    n = 1 if body.get("n") is None else body["n"]
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= 64:
        raise ApiError(400, f"n: a number from 1 to 64; got {n!r}", param="n")
    stream_options = body.get("stream_options") or {}
    if not isinstance(stream_options, dict):
        raise ApiError(400, "stream_options: an object is needed", param="stream_options")
    stream = body.get("stream") or False
    if not isinstance(stream, bool):
        raise ApiError(400, f"stream: true or false; got {stream!r}", param="stream")
    options = _options(body.get("pilotfish"), request)
    guide = alias != "plain" and (
        alias == "lookahead" or options.k is not None or context.settings.guide_by_default
    )
    k = (options.k or context.settings.lookahead_k) if guide else 1
    return ChatCall(
        body=body,
        messages=messages,
        model=model,
        policy=policy,
        n=n,
        stream=stream,
        include_usage=bool(stream_options.get("include_usage")),
        guide=guide,
        k=max(k, n),
        options=options,
    )


def _alias(model: str, context: Context) -> tuple[str, str | None]:
    """A policy's name and the alias behind it. A name may itself hold a colon."""
    name, _, alias = model.rpartition(":")
    if alias in ("plain", "lookahead") and name and model not in context.parts.policies:
        return name, alias
    return model, None


def _options(given: Any, request: Request) -> GuideOptions:
    merged = dict(given) if isinstance(given, dict) else {}
    if given is not None and not isinstance(given, dict):
        raise ApiError(400, "pilotfish: an object is needed", param="pilotfish")
    for name in GuideOptions.model_fields:
        if (header := request.headers.get(f"x-pilotfish-{name.replace('_', '-')}")) is not None:
            merged[name] = header
    if (session := request.headers.get("x-session-id")) is not None:
        merged.setdefault("session", session)
    try:
        return GuideOptions.model_validate(merged)
    except ValidationError as error:
        where, message = first_wrong(error.errors(), "pilotfish")
        raise ApiError(400, message, param=where) from error


def _lookahead(call: ChatCall) -> Lookahead:
    options = call.options
    extra = {name: value for name, value in call.body.items() if name not in _OURS}
    return Lookahead(
        k=call.k,
        pick=options.pick,
        pick_temperature=options.pick_temperature,
        threshold=options.threshold,
        deadline=options.deadline,
        sampling=Sampling(temperature=None, extra=extra),
    )


class _Closing(StreamingResponse):
    """A stream that frees what it holds, also when its caller left before it began."""

    def __init__(
        self, content: AsyncIterator[Any], close: Callable[[], Awaitable[None]], **options: Any
    ) -> None:
        super().__init__(content, media_type="text/event-stream", **options)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.shield(self._close())


async def _plain(request: Request, call: ChatCall, policy: OpenAIPolicy) -> Response:
    """Not guided: the policy's own answer, byte for byte."""
    body = {name: value for name, value in call.body.items() if name != "pilotfish"}
    held = AsyncExitStack()
    opening = held.enter_async_context(policy.forward(body | {"model": policy.settings.model}))
    response = await while_present(request, opening)
    if call.stream:
        return _Closing(response.aiter_bytes(), held.aclose)
    async with held:
        content = await while_present(request, response.aread())
    return Response(content, response.status_code, media_type="application/json")


async def _streamed(
    call: ChatCall, step: Coroutine[Any, Any, Decision], recording: Recording, keepalive: float
) -> Response:
    """The search first, with comments to keep the connection; then the winner. What fails within
    a second has a status; what fails later is an error in the stream."""
    deciding = asyncio.create_task(step)

    async def stop() -> None:
        deciding.cancel()
        await asyncio.gather(deciding, return_exceptions=True)

    async def events() -> AsyncIterator[str]:
        while not deciding.done():
            yield ": searching\n\n"
            await asyncio.wait({deciding}, timeout=keepalive)
        try:
            answer = _answer(call, deciding.result(), recording)
        except Exception as error:
            yield f"data: {json.dumps(told(error, model=call.model).body)}\n\n"
        else:
            for chunk in _chunks(answer, call):
                yield f"data: {json.dumps(chunk)}\n\n"
        yield "data: [DONE]\n\n"

    try:
        await asyncio.wait({deciding}, timeout=min(keepalive, 1.0))
    except asyncio.CancelledError:
        await stop()
        raise
    headers = _headers(deciding.result()) if deciding.done() else {}
    return _Closing(events(), stop, headers=headers)


def _answer(call: ChatCall, decision: Decision, recording: Recording) -> dict[str, Any]:
    ranked = sorted(
        (c for c in decision.candidates if c.message is not None and c.index != decision.chosen),
        key=lambda c: (c.q is None, -(c.q or 0.0), c.index),
    )
    indices = [decision.chosen, *(c.index for c in ranked)][: call.n]
    usage = decision.usage
    upstream = recording.answer
    return upstream | {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": call.model,
        "choices": [_choice(i, recording.samples[index].raw, recording.samples[index].message, call)
                    for i, index in enumerate(indices)],
        "usage": upstream.get("usage", {})
        | {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
        "pilotfish": _report(call, decision),
    }  # fmt: skip


def _choice(
    index: int, raw: dict[str, Any], message: Message | None, call: ChatCall
) -> dict[str, Any]:
    """The candidate as the policy gave it, with its place in this answer."""
    if not raw and message is not None:
        raw = {"message": message.wire(), "finish_reason": "stop"}
    choice = {"finish_reason": None, "logprobs": None} | raw | {"index": index}
    if not call.body.get("logprobs"):
        choice["logprobs"] = None
    return choice


def _report(call: ChatCall, decision: Decision) -> dict[str, Any]:
    winner = decision.winner
    report: dict[str, Any] = {
        "k": decision.requested,
        "chosen": decision.chosen,
        "q": winner.q,
        "spread": winner.spread,
        "reason": decision.reason,
        "degraded": decision.degraded,
        "notes": decision.notes,
        "seconds": round(decision.seconds, 4),
        "policy_seconds": round(decision.policy_seconds, 4),
        "winner_tokens": winner.tokens,
    }
    if call.options.candidates:
        report["candidates"] = [
            c.model_dump(mode="json", exclude={"message"})
            | {"message": c.message.wire() if c.message else None}
            for c in decision.candidates
        ]
    return report


def _headers(decision: Decision) -> dict[str, str]:
    headers = {
        "x-pilotfish-candidates": str(sum(c.message is not None for c in decision.candidates)),
        "x-pilotfish-reason": decision.reason,
        "x-pilotfish-degraded": str(decision.degraded).lower(),
    }
    if decision.winner.q is not None:
        headers["x-pilotfish-score"] = f"{decision.winner.q:.6f}"
    return headers


def _chunks(answer: dict[str, Any], call: ChatCall) -> list[dict[str, Any]]:
    """The answer as the upstream would have streamed it: role, text, tool calls, end, usage."""
    ours = ("choices", "usage", "pilotfish")
    head = {name: value for name, value in answer.items() if name not in ours}
    head["object"] = "chat.completion.chunk"
    chunks = []
    for choice in answer["choices"]:
        message = dict(choice["message"])
        role = message.pop("role", "assistant")
        calls = message.pop("tool_calls", None) or []
        deltas: list[dict[str, Any]] = [{"role": role, "content": ""}]
        deltas += [{name: value} for name, value in message.items() if value not in (None, "", [])]
        deltas += [{"tool_calls": [call | {"index": i}]} for i, call in enumerate(calls)]
        for delta in deltas:
            shown = choice["logprobs"] if delta.get("content") else None
            part = {"index": choice["index"], "delta": delta, "logprobs": shown}
            chunks.append(head | {"choices": [part | {"finish_reason": None}]})
        end = {"index": choice["index"], "delta": {}, "logprobs": None}
        chunks.append(head | {"choices": [end | {"finish_reason": choice["finish_reason"]}]})
    chunks[-1]["pilotfish"] = answer["pilotfish"]
    if call.include_usage:
        chunks.append(head | {"choices": [], "usage": answer["usage"]})
    return chunks


async def _json_body(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise ApiError(400, "the body is not a JSON object")
    return body
