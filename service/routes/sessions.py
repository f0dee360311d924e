"""``/v1/sessions``: what outside agents did through the endpoint. What a session is stands in
Redis; this file only shows it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from pilotfish import Trajectory, Usage
from pilotfish.api import SESSION_ID, GuideOptions, SessionList, SessionView
from service import openapi
from service.errors import ApiError
from service.redis_sessions import SessionGone
from service.routes.context import InContext

router = APIRouter(
    prefix="/v1/sessions", tags=["sessions"], responses=openapi.errors(400, 401, 500, 503)
)
Session = Annotated[str, Path(pattern=SESSION_ID)]
_GONE = openapi.errors(404)


async def named_in_path(session: Session) -> None:
    """A FastAPI dependency of routes below ``/sessions/{session}``: that is a session's id."""


@router.get("", responses=_GONE)
async def page(
    context: InContext,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    after: str | None = None,
) -> SessionList:
    """Sessions, the latest called first."""
    try:
        found = await context.sessions.state.page(limit=limit + 1, after=after)
    except SessionGone as error:
        raise ApiError(404, str(error), param="after") from error
    more = found[limit - 1]["id"] if len(found) > limit else None
    return SessionList(data=[_view(summary) for summary in found[:limit]], next=more)


@router.get("/{session}", responses=_GONE)
async def show(session: Session, context: InContext) -> SessionView:
    """One session."""
    try:
        return _view(await context.sessions.state.summary(session))
    except SessionGone as error:
        raise _not_found(error) from error


@router.put("/{session}", responses=openapi.errors(413))
async def guide(session: Session, body: GuideOptions, context: InContext) -> SessionView:
    """Set how calls of a session are guided that do not say it. The session need not have begun."""
    await context.sessions.state.guide(session, body.model_dump(exclude_unset=True))
    return await show(session, context)


@router.get("/{session}/trajectory", responses=_GONE)
async def trajectory(session: Session, context: InContext) -> Trajectory:
    """Its trajectory: every candidate, score and reason. Where the agent went back, that of its
    longest way."""
    try:
        return await context.sessions.trajectory(session)
    except SessionGone as error:
        raise _not_found(error) from error


@router.delete("/{session}", status_code=204, responses=_GONE)
async def forget(session: Session, context: InContext) -> None:
    """Delete what is kept of a session."""
    try:
        await context.sessions.state.forget(session)
    except SessionGone as error:
        raise _not_found(error) from error


def _view(summary: dict[str, Any]) -> SessionView:
    guided = summary.get("guide")
    return SessionView(
        id=summary["id"],
        task=summary.get("task", ""),
        policy=summary.get("model"),
        critic=summary.get("critic") or None,
        created_at=float(summary["created_at"]),
        last_at=float(summary["last_at"]),
        calls=int(summary.get("calls", 0)),
        degraded=int(summary.get("degraded", 0)),
        last_q=float(summary["q"]) if "q" in summary else None,
        usage=Usage(
            prompt_tokens=int(summary.get("prompt_tokens", 0)),
            completion_tokens=int(summary.get("completion_tokens", 0)),
        ),
        guide=GuideOptions.model_validate_json(guided) if guided else None,
    )


def _not_found(error: SessionGone) -> ApiError:
    return ApiError(404, str(error), code="session_not_found", param="session")
