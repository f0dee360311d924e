"""``POST /v1/responses``: OpenAI's Responses API, guided as chat completions are; and the responses
that were kept, for ``previous_response_id`` and by their ids."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response

from service import openapi
from service.errors import ApiError, told
from service.redis_connection import StateError
from service.redis_responses import RedisResponses
from service.routes.chat import Asking, json_body, understand
from service.routes.context import InContext, permitted, while_present
from service.routes.streaming import Closing, Paused
from service.wire.fields import wrong
from service.wire.items import long_form
from service.wire.response_events import ResponseEvents
from service.wire.responses import Asked, asked_of, chat_of
from service.wire.schemas import DeletedResponse, InputItems, ResponseAnswer, ResponseRequest

router = APIRouter(
    prefix="/v1/responses", tags=["responses"], responses=openapi.errors(400, 401, 404, 500, 503)
)
log = structlog.get_logger()


@router.post(
    "",
    response_model=None,
    dependencies=[Depends(permitted)],
    responses=openapi.streamed(ResponseAnswer) | openapi.errors(413, 429, 502, "4XX"),
    openapi_extra=openapi.guided(ResponseRequest),
)
async def create(request: Request, context: InContext) -> Response:
    """OpenAI's; see docs/endpoint.md for what is refused and what is ours."""
    asked = asked_of(await json_body(request))
    earlier = await _earlier(context.responses, asked)
    call = await understand(chat_of(asked, earlier), request, context)
    asking, events = Asking(call, context), ResponseEvents(asked)
    if call.stream:
        said = await asking.stream()
        lines = _lines(said, events, asked, context.responses)
        return Closing(lines, said.close, headers=asking.headers)
    events.add(await while_present(request, asking.answer()))
    events.end()
    await _keep(context.responses, asked, events.response)
    return JSONResponse(events.response, headers=asking.headers)


@router.get("/{response_id}", response_model=ResponseAnswer)
async def retrieve(
    response_id: str,
    context: InContext,
    stream: Annotated[str, Query(json_schema_extra={"enum": ["false"]})] = "false",
) -> Response:
    """A response that was kept."""
    if stream != "false":
        raise wrong("stream", "a response that was kept is given whole")
    record = await context.responses.record(response_id)
    if record is None:
        raise _gone(response_id)
    return JSONResponse(json.loads(record)["response"])


@router.get("/{response_id}/input_items")
async def input_items(
    response_id: str,
    context: InContext,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
) -> InputItems:
    """What a response that was kept was asked with: its own input, not that of those before it, in
    the long form. Items that had no id have one of their place."""
    record = await context.responses.record(response_id)
    if record is None:
        raise _gone(response_id)
    items = [
        {"id": f"{response_id}_{place}"} | long_form(item)
        for place, item in enumerate(json.loads(record)["input"])
    ]
    if order == "desc":
        items.reverse()
    ids = [item["id"] for item in items]
    if after is not None and after not in ids:
        raise wrong("after", f"the response has no item {after!r}")
    begin = 0 if after is None else ids.index(after) + 1
    page = items[begin : begin + limit]
    return InputItems(
        data=page,
        first_id=page[0]["id"] if page else None,
        last_id=page[-1]["id"] if page else None,
        has_more=begin + limit < len(items),
    )


@router.delete("/{response_id}")
async def delete(response_id: str, context: InContext) -> DeletedResponse:
    """Forget a response; those that go on from it cannot be gone on with."""
    if not await context.responses.forget(response_id):
        raise _gone(response_id)
    return DeletedResponse(id=response_id, deleted=True)


def _gone(response_id: str) -> ApiError:
    return ApiError(404, f"there is no response {response_id!r}", param="response_id")


async def _earlier(kept: RedisResponses, asked: Asked) -> list[dict[str, Any]]:
    """The items of all responses before this one."""
    if asked.previous is None:
        return []
    records = await kept.records_up_to(asked.previous)
    if records is None:
        raise ApiError(
            400,
            f"previous_response_id: {asked.previous!r}, or one before it, is not kept (any more)",
            code="previous_response_not_found",
            param="previous_response_id",
        )
    held = [json.loads(record) for record in records]
    return [item for one in held for item in (*one["input"], *one["response"]["output"])]


async def _keep(kept: RedisResponses, asked: Asked, response: dict[str, Any]) -> None:
    """What it adds to those before it. Where that fails the answer is still one, and says that it
    was not kept."""
    if not asked.store:
        return
    record = json.dumps({"input": asked.items, "response": response})
    try:
        await kept.keep(response["id"], asked.previous, record)
    except StateError as error:
        log.warning("response not kept", error=str(error), response=response["id"])
        response["store"] = False


async def _lines(
    said: Paused[dict[str, Any]], events: ResponseEvents, asked: Asked, kept: RedisResponses
) -> AsyncIterator[str]:
    try:
        for event in events.begin():
            yield _line(event)
        async for chunk in said:
            if chunk is None:
                yield ": searching\n\n"
                continue
            for event in events.add(chunk):
                yield _line(event)
        for event in events.end():
            yield _line(event)
        await _keep(kept, asked, events.response)
        last = events.last()
    except Exception as error:
        last = events.failed(told(error, model=asked.body["model"]))
    yield _line(last)


def _line(event: dict[str, Any]) -> str:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
