"""``POST /v1/messages``: Anthropic's Messages API, guided as chat completions are; and
``/v1/messages/count_tokens``, where the policy can count."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from search.errors import PolicyRefused
from service import openapi
from service.errors import ApiError, told
from service.policies.openai_endpoint import OpenAIPolicy
from service.routes.chat import Asking, json_body, understand
from service.routes.context import InContext, permitted, while_present
from service.routes.streaming import Closing, Paused
from service.wire.message_events import PING, MessageEvents
from service.wire.messages import chat_of
from service.wire.schemas import (
    AnthropicError,
    MessageAnswer,
    MessagesRequest,
    TokenCount,
    TokensRequest,
)

router = APIRouter(
    prefix="/v1/messages",
    tags=["messages"],
    responses=openapi.errors(401, *openapi.BODY, *openapi.ASKING, 500, "4XX", kind=AnthropicError),
)


@router.post(
    "",
    response_model=None,
    dependencies=[Depends(permitted)],
    responses=openapi.streamed(MessageAnswer),
    openapi_extra=openapi.guided(MessagesRequest),
)
async def create(request: Request, context: InContext) -> Response:
    """Anthropic's; see docs/endpoint.md for what is refused and what is ours."""
    body = await json_body(request)
    call = await understand(chat_of(body), request, context)
    asking, events = Asking(call, context), MessageEvents(body)
    if call.stream:
        said = await asking.stream()
        return Closing(_lines(said, events, call.model), said.close, headers=asking.headers)
    events.add(await while_present(request, asking.answer()))
    events.end()
    return JSONResponse(events.message, headers=asking.headers)


@router.post("/count_tokens", openapi_extra=openapi.guided(TokensRequest))
async def count_tokens(request: Request, context: InContext) -> TokenCount:
    """Tokens of a prompt, as the policy counts them."""
    call = await understand(chat_of(await json_body(request), counting=True), request, context)
    policy = context.parts.policy(call.policy)
    cannot = ApiError(404, f"the policy {call.policy!r} cannot count tokens: it has no /tokenize")
    if not isinstance(policy, OpenAIPolicy):
        raise cannot
    try:
        count = await while_present(request, policy.count_tokens(call.body))
        return TokenCount(input_tokens=count)
    except PolicyRefused as error:
        if error.status in (404, 405):
            raise cannot from error
        raise


async def _lines(
    said: Paused[dict[str, Any]], events: MessageEvents, model: str
) -> AsyncIterator[str]:
    try:
        for event in events.begin():
            yield _line(event)
        async for chunk in said:
            for event in [PING] if chunk is None else events.add(chunk):
                yield _line(event)
        for event in events.end():
            yield _line(event)
    except Exception as error:
        yield _line(told(error, model=model).anthropic_body)


def _line(event: dict[str, Any]) -> str:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
