"""``/v1/runs``: guided runs of tasks. What a run is stands in Redis; this file only shows it."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from pilotfish.api import FINAL_STATUSES, Event, RunList, RunRequest, RunView
from pilotfish.trajectory import Trajectory
from service import openapi
from service.errors import ApiError
from service.redis_state import Asked, KeyUsed, RunGone
from service.routes.context import Context, InContext
from service.runs.views import run_view, trajectories_of

router = APIRouter(prefix="/v1/runs", tags=["runs"], responses=openapi.errors(401, 500, 503))
_GONE = openapi.errors(400, 404)
_STREAM: openapi.Responses = {**_GONE, 200: {"content": openapi.events(Event)}}
_NOT_SO = openapi.errors(400, 404, 409)
_MADE: openapi.Responses = {
    202: {"headers": {"Location": {"schema": {"type": "string"}}}},
    **openapi.errors(*openapi.BODY, 404, 409),
}


class _JsonLines(Response):
    media_type = "application/jsonl"


class _Events(StreamingResponse):
    media_type = "text/event-stream"


_EVENT_ID = re.compile(r"^([0-9]{1,19}(-[0-9]{1,19})?)?$")


@router.post("", status_code=202, responses=_MADE)
async def create(
    body: RunRequest,
    context: InContext,
    response: Response,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> RunView:
    """Queue a run of a task. With an ``Idempotency-Key`` the same request makes one run, however
    often it is sent."""
    policy = context.parts.policy(body.model)
    critic = context.parts.critic(body.critic)
    context.parts.sandbox(body.sandbox)
    meta = {"policy": policy.name} | ({"critic": critic.name} if critic else {})
    request = body.model_dump_json(exclude_unset=True)
    try:
        run_id = await context.state.create(uuid.uuid4().hex, request, meta, once=idempotency_key)
    except KeyUsed as error:
        raise ApiError(409, str(error), code="idempotency_key_reused") from error
    _wake(context)
    response.headers["Location"] = f"/v1/runs/{run_id}"
    return run_view(await context.state.summary(run_id))


@router.get("", responses=_GONE)
async def page(
    context: InContext,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    after: str | None = None,
) -> RunList:
    """Runs, newest first, without their trajectories."""
    try:
        found = await context.state.page(limit=limit + 1, after=after)
    except RunGone as error:
        raise ApiError(404, str(error), param="after") from error
    more = found[limit - 1]["id"] if len(found) > limit else None
    return RunList(data=[run_view(summary) for summary in found[:limit]], next=more)


@router.get("/{run_id}", responses=_GONE)
async def show(run_id: str, context: InContext, trajectories: bool = True) -> RunView:
    """One run, with a summary of each of its trajectories; with ``trajectories=false`` without, for
    who looks often: its journal is not read."""
    summary = await _summary(context, run_id)
    return run_view(summary, await context.state.entries(run_id) if trajectories else None)


@router.post("/{run_id}/cancel", status_code=202, responses=_GONE)
async def cancel(run_id: str, context: InContext) -> RunView:
    """Stop a run. What was done until then is kept. A run that has ended stays as it is."""
    return await _ask(context, run_id, "cancel")


@router.post("/{run_id}/pause", status_code=202, responses=_NOT_SO)
async def pause(run_id: str, context: InContext) -> RunView:
    """Lay a run aside. Its sandboxes stay as they are, with the commands that run in them, until
    it is resumed or their lifetime is over; the time of a pause is not counted. Pausing what is
    paused is no error; of a run that has ended it is 409."""
    return await _ask(context, run_id, "pause", then=("paused", "pausing"))


@router.post("/{run_id}/resume", status_code=202, responses=_NOT_SO)
async def resume(run_id: str, context: InContext) -> RunView:
    """Go on with a paused run. Resuming what goes on is no error; of a run that has ended it is
    409."""
    return await _ask(context, run_id, "resume", then=("queued", "running"))


@router.post("/{run_id}/retry", status_code=202, responses=_NOT_SO)
async def retry(run_id: str, context: InContext) -> RunView:
    """Go on with a run that failed or was cancelled. What ended by the policy's own doing stays;
    what the infrastructure failed, or the cancellation cut short, is done again. Of a run that
    succeeded it is 409."""
    return await _ask(context, run_id, "retry", then=("queued", "running"))


async def _ask(
    context: Context, run_id: str, what: Asked, *, then: tuple[str, ...] | None = None
) -> RunView:
    """``then``: what the run must be afterwards."""
    try:
        _, after = await context.state.ask(run_id, what)
    except RunGone as error:
        raise _not_found(error) from error
    if then is not None and after not in then:
        raise ApiError(409, f"run {run_id} is {after}: no use to {what} it", code="run_not_so")
    _wake(context)
    return run_view(await _summary(context, run_id))


def _wake(context: Context) -> None:
    if context.worker is not None:
        context.worker.wake()


@router.get("/{run_id}/trajectories/{number}", responses=_GONE)
async def trajectory(run_id: str, number: int, context: InContext) -> Trajectory:
    """One trajectory, whole: every candidate, score, observation and reason."""
    summary = await _summary(context, run_id)
    final = summary["status"] in FINAL_STATUSES
    trajectories = trajectories_of(await context.state.entries(run_id), final=final)
    if not 0 <= number < len(trajectories):
        raise ApiError(
            404,
            f"run {run_id} has {len(trajectories)} trajectories, from 0; there is no {number}",
            param="number",
        )
    return trajectories[number]


@router.get("/{run_id}/trajectories", response_class=_JsonLines, responses=_GONE)
async def trajectories(run_id: str, context: InContext) -> Response:
    """All trajectories of a run, as JSON lines that the critic trains on."""
    summary = await _summary(context, run_id)
    final = summary["status"] in FINAL_STATUSES
    found = trajectories_of(await context.state.entries(run_id), final=final)
    lines = "".join(t.model_dump_json(exclude_defaults=True) + "\n" for t in found)
    return _JsonLines(lines)


@router.get("/{run_id}/events", response_class=_Events, responses=_STREAM)
async def events(
    run_id: str,
    context: InContext,
    last_event_id: Annotated[str, Header(json_schema_extra={"pattern": _EVENT_ID.pattern})] = "0",
) -> Response:
    """The run's journal as server-sent events, until the run has ended. With ``Last-Event-ID`` it
    goes on behind that event."""
    await _summary(context, run_id)
    if not _EVENT_ID.fullmatch(last_event_id):
        raise ApiError(400, f"{last_event_id!r} is no event id", param="Last-Event-ID")
    return _Events(_events(context, run_id, last_event_id or "0"))


async def _events(context: Context, run_id: str, after: str) -> AsyncIterator[str]:
    async for entry in context.state.follow(run_id, after=after):
        if entry is None:
            yield ": waiting\n\n"
            if (await _summary(context, run_id))["status"] in FINAL_STATUSES:
                return
            continue
        ended = entry["kind"] == "run_ended"
        if ended and (await _summary(context, run_id))["status"] not in FINAL_STATUSES:
            continue  # it was tried again since
        yield f"id: {entry['id']}\nevent: {entry['kind']}\ndata: {json.dumps(entry)}\n\n"
        if ended:
            return


async def _summary(context: Context, run_id: str) -> dict[str, Any]:
    try:
        return await context.state.summary(run_id)
    except RunGone as error:
        raise _not_found(error) from error


def _not_found(error: RunGone) -> ApiError:
    return ApiError(404, str(error), code="run_not_found", param="run_id")
