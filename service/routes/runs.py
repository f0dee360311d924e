"""``/v1/runs``: guided runs of tasks. What a run is stands in Redis; this file only shows it."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse

from pilotfish.api import FINAL_STATUSES, RunList, RunRequest, RunView
from pilotfish.trajectory import Trajectory
from service.errors import ApiError
from service.redis_state import RunGone
from service.routes.context import Context, InContext
from service.runs.views import run_view, trajectories_of

router = APIRouter(prefix="/v1/runs", tags=["runs"])
_EVENT_ID = re.compile(r"[0-9]{1,19}(-[0-9]{1,19})?")


@router.post("", status_code=202)
async def create(body: RunRequest, context: InContext, response: Response) -> RunView:
    """Queue a run of a task."""
    policy = context.parts.policy(body.model)
    critic = context.parts.critic(body.critic)
    context.parts.sandbox(body.sandbox)
    run_id = uuid.uuid4().hex
    meta = {"policy": policy.name} | ({"critic": critic.name} if critic else {})
    await context.state.create(run_id, body.model_dump_json(exclude_unset=True), meta)
    await context.queue.put(run_id)
    response.headers["Location"] = f"/v1/runs/{run_id}"
    return run_view(await context.state.summary(run_id))


@router.get("")
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


@router.get("/{run_id}")
async def show(run_id: str, context: InContext) -> RunView:
    """One run, with a summary of each of its trajectories."""
    summary = await _summary(context, run_id)
    return run_view(summary, await context.state.entries(run_id))


@router.post("/{run_id}/cancel", status_code=202)
async def cancel(run_id: str, context: InContext) -> RunView:
    """Stop a run. What was done until then is kept. A run that has ended stays as it is."""
    summary = await _summary(context, run_id)
    if summary["status"] == "queued" and await context.state.move(
        run_id, "cancelling", after=("queued",)
    ):
        await context.queue.cancel(run_id)
        await context.state.finish(run_id, "cancelled", {"error": None})
    elif await context.state.move(run_id, "cancelling", after=("queued", "running")):
        await context.queue.cancel(run_id)
    return run_view(await _summary(context, run_id))


@router.get("/{run_id}/trajectories/{number}")
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


@router.get("/{run_id}/trajectories")
async def trajectories(run_id: str, context: InContext) -> JSONResponse:
    """All trajectories of a run, as JSON lines that the critic trains on."""
    summary = await _summary(context, run_id)
    final = summary["status"] in FINAL_STATUSES
    found = trajectories_of(await context.state.entries(run_id), final=final)
    lines = "".join(t.model_dump_json(exclude_defaults=True) + "\n" for t in found)
    return Response(lines, media_type="application/jsonl")  # type: ignore[return-value]


@router.get("/{run_id}/events")
async def events(
    run_id: str,
    context: InContext,
    last_event_id: Annotated[str | None, Header()] = None,
) -> StreamingResponse:
    """The run's journal as server-sent events, until the run has ended. With ``Last-Event-ID`` it
    goes on behind that event."""
    await _summary(context, run_id)
    after = last_event_id or "0"
    if not _EVENT_ID.fullmatch(after):
        raise ApiError(400, f"{after!r} is no event id", param="Last-Event-ID")
    return StreamingResponse(_events(context, run_id, after), media_type="text/event-stream")


async def _events(context: Context, run_id: str, after: str) -> AsyncIterator[str]:
    async for entry in context.state.follow(run_id, after=after):
        if entry is None:
            yield ": waiting\n\n"
            if (await _summary(context, run_id))["status"] in FINAL_STATUSES:
                return
            continue
        yield f"id: {entry['id']}\nevent: {entry['kind']}\ndata: {json.dumps(entry)}\n\n"
        if entry["kind"] == "run_ended":
            return


async def _summary(context: Context, run_id: str) -> dict[str, Any]:
    try:
        return await context.state.summary(run_id)
    except RunGone as error:
        raise ApiError(404, str(error), code="run_not_found", param="run_id") from error
