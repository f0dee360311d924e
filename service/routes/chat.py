"""``POST /v1/chat/completions``: OpenAI's, guided. Any agent is guided by changing its base URL.

The request goes to the policy as it came, but for ``model``, ``messages`` (the same, encoded anew),
``n``, ``stream``, ``stream_options`` and our own ``pilotfish``; ``logprobs`` are asked for, to
break ties, and taken out of the answer where the caller did not ask. The answer is the chosen
candidate as the policy gave it, with whatever else the policy's answer had; ``usage`` counts all
candidates, and ``pilotfish`` says what was decided.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any

import httpx
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import TypeAdapter, ValidationError

from pilotfish import Decision, Message
from pilotfish.api import GuideOptions
from pilotfish.errors import first_wrong
from pilotfish.strategy import Lookahead, Sampling
from search.contracts import Policy
from service import openapi
from service.errors import ApiError, told
from service.guiding import Recording, guided_step
from service.policies.openai_endpoint import OpenAIPolicy
from service.routes.context import Context, InContext, permitted, while_present
from service.routes.streaming import Closing, Paused
from service.unguided import chunks_in, decided_by, put_together
from service.wire.chat import (
    CallOptions,
    ChatCall,
    answer_of,
    chunks_of,
    headers_of,
    session_header,
)
from service.wire.schemas import ChatCompletion, ChatRequest

router = APIRouter(
    tags=["chat"], responses=openapi.errors(401, *openapi.BODY, *openapi.ASKING, 500, "4XX")
)
_MESSAGES = TypeAdapter(list[Message])
_OURS = frozenset({"model", "messages", "n", "best_of", "stream", "stream_options", "pilotfish"})


@router.post(
    "/v1/chat/completions",
    response_model=None,
    dependencies=[Depends(permitted)],
    responses=openapi.streamed(ChatCompletion),
    openapi_extra=openapi.guided(ChatRequest),
)
async def chat_completions(request: Request, context: InContext) -> Response:
    """OpenAI's chat completions; see the top of this file for what is ours."""
    call = await understand(await json_body(request), request, context)
    if (policy := _unguided(call, context)) is not None:
        return await _plain(request, call, context, policy)
    asking = Asking(call, context)
    if call.stream:
        said = await asking.stream()
        return Closing(_events(said, call), said.close, headers=asking.headers)
    answer = await while_present(request, asking.answer())
    return JSONResponse(answer, headers=asking.headers)


class Asking:
    """A chat call as it is answered, whatever format its caller speaks. ``headers`` say what was
    decided, as soon as it is."""

    def __init__(self, call: ChatCall, context: Context) -> None:
        self._call, self._context = call, context
        self._policy = context.parts.policy(call.policy)
        self._plain = _unguided(call, context)
        self._critic = context.parts.critic(call.options.critic) if call.guide else None
        self.headers: dict[str, str] = {}

    async def answer(self) -> dict[str, Any]:
        """The chat completion: the winner's, or, not guided, the policy's own."""
        if self._plain is not None:
            self.headers = session_header(self._call)
            body = _passed_on(self._call, self._plain)
            plain = await self._plain.answer(body, session=self._call.known.session)
            await _keep(self._call, self._context, plain)
            return plain
        recording = Recording(self._policy)
        decision = await self._decide(recording)
        self.headers = headers_of(self._call, decision)
        await self._context.sessions.decided(
            self._call.known,
            decision,
            model=self._policy.name,
            critic=self._critic.name if self._critic else None,
        )
        return answer_of(self._call, decision, recording)

    async def stream(self) -> Paused[dict[str, Any]]:
        """The search first, then the answer, whole; not guided, the policy's chunks as they come.
        What fails within a second is raised here, what fails later as it is read."""
        said = Paused(self._said(), self._context.settings.keepalive)
        await said.begin()
        return said

    async def _said(self) -> AsyncGenerator[dict[str, Any], None]:
        if self._plain is None:
            yield await self.answer()
            return
        self.headers = session_header(self._call)
        body, said = _passed_on(self._call, self._plain), []
        async with aclosing(self._plain.chunks(body, session=self._call.known.session)) as chunks:
            async for chunk in chunks:
                said.append(chunk)
                yield chunk
        await _keep(self._call, self._context, put_together(said))

    async def _decide(self, policy: Policy) -> Decision:
        call = self._call
        return await guided_step(
            policy, self._critic, call.messages, _lookahead(call), call.known.session
        )


async def understand(body: dict[str, Any], request: Request, context: Context) -> ChatCall:
    """Check the request, and find its session. Raises: ``ApiError`` 400 or 404 naming the field."""
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
    if isinstance(n, float) and n.is_integer():  # as JSON has it
        n = int(n)
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= 64:
        raise ApiError(400, f"n: a number from 1 to 64; got {n!r}", param="n")
    stream_options = body.get("stream_options") or {}
    if not isinstance(stream_options, dict):
        raise ApiError(400, "stream_options: an object is needed", param="stream_options")
    stream = body.get("stream") or False
    if not isinstance(stream, bool):
        raise ApiError(400, f"stream: true or false; got {stream!r}", param="stream")
    said = _said_in(body.get("pilotfish"), request)
    known = await context.sessions.call(messages, _options(said).session)
    options = _options(_guide_of_key(request) | known.guide | said)
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
        known=known,
    )


def _alias(model: str, context: Context) -> tuple[str, str | None]:
    """A policy's name and the alias behind it. A name may itself hold a colon."""
    name, _, alias = model.rpartition(":")
    if alias in ("plain", "lookahead") and name and model not in context.parts.policies:
        return name, alias
    return model, None


def _said_in(given: Any, request: Request) -> dict[str, Any]:
    """What the call itself says of how it is guided: headers win over the body. Of its session, the
    path wins over both."""
    if given is not None and not isinstance(given, dict):
        raise ApiError(400, "pilotfish: an object is needed", param="pilotfish")
    _options(given or {}, strict=True)
    said = dict(given or {})
    for name in CallOptions.model_fields:
        if (header := request.headers.get(f"x-pilotfish-{name.replace('_', '-')}")) is not None:
            said[name] = header
    if (session := request.headers.get("x-session-id")) is not None:
        said.setdefault("session", session)
    if (session := request.path_params.get("session")) is not None:
        said["session"] = session
    return said


def _guide_of_key(request: Request) -> dict[str, Any]:
    guide: GuideOptions | None = getattr(request.state, "guide", None)
    return guide.model_dump(exclude_unset=True) if guide else {}


def _options(given: dict[str, Any], *, strict: bool = False) -> CallOptions:
    """Not ``strict``, since headers are text."""
    try:
        return CallOptions.model_validate(given, strict=strict)
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


def _unguided(call: ChatCall, context: Context) -> OpenAIPolicy | None:
    """The policy, where it is to answer for itself: unguided, or streaming its only candidate."""
    policy = context.parts.policy(call.policy)
    if not isinstance(policy, OpenAIPolicy) or (call.stream and not policy.settings.stream):
        return None
    alone = not call.guide or (call.stream and call.k == 1)
    return policy if alone else None


def _passed_on(call: ChatCall, policy: OpenAIPolicy) -> dict[str, Any]:
    body = {name: value for name, value in call.body.items() if name != "pilotfish"}
    return body | {"model": policy.settings.model}


async def _plain(
    request: Request, call: ChatCall, context: Context, policy: OpenAIPolicy
) -> Response:
    """Not guided: the policy's own answer, byte for byte."""
    held = AsyncExitStack()
    forwarding = policy.forward(_passed_on(call, policy), session=call.known.session)
    response = await while_present(request, held.enter_async_context(forwarding))
    headers = session_header(call)
    if call.stream:
        return Closing(_passing(response, call, context), held.aclose, headers=headers)
    async with held:
        content = await while_present(request, response.aread())
    with suppress(ValueError):
        await _keep(call, context, json.loads(content))
    kind = "application/json"
    return Response(content, response.status_code, headers, media_type=kind)


async def _passing(
    response: httpx.Response, call: ChatCall, context: Context
) -> AsyncIterator[bytes]:
    """The policy's stream as it comes."""
    passed: list[bytes] = []
    async for piece in response.aiter_bytes():
        passed.append(piece)
        yield piece
    await _keep(call, context, put_together(chunks_in(b"".join(passed))))


async def _keep(call: ChatCall, context: Context, answer: Any) -> None:
    """What a policy answered for itself belongs to its session too."""
    decision = decided_by(answer)
    if decision is not None:
        await context.sessions.decided(call.known, decision, model=call.policy, critic=None)


async def _events(said: Paused[dict[str, Any]], call: ChatCall) -> AsyncIterator[str]:
    """Comments to keep the connection while the search goes on; then the winner, or its error."""
    try:
        async for answer in said:
            if answer is None:
                yield ": searching\n\n"
                continue
            for chunk in chunks_of(answer, call):
                yield f"data: {json.dumps(chunk)}\n\n"
    except Exception as error:
        yield f"data: {json.dumps(told(error, model=call.model).body)}\n\n"
    yield "data: [DONE]\n\n"


async def json_body(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise ApiError(400, "the body is not a JSON object")
    return body
