"""``/v1/lookahead``, ``/v1/score`` and ``/v1/selections``: the critic and the operators, bare."""

from __future__ import annotations

from fastapi import APIRouter, Request

from pilotfish.api import (
    LookaheadRequest,
    LookaheadResponse,
    ScoreRequest,
    ScoreResponse,
    SelectionRequest,
    SelectionResponse,
)
from pilotfish.trajectory import Trajectory
from search.contracts import Critic
from search.finished import put_scores, score_finished
from search.selection import select
from service import openapi
from service.critics.all_of import all_of
from service.errors import ApiError
from service.guiding import Given, guided_step
from service.redis_sessions import SessionGone
from service.routes.context import Context, InContext, while_present

router = APIRouter(
    prefix="/v1",
    tags=["critic"],
    responses=openapi.errors(401, *openapi.BODY, *openapi.ASKING, 500),
)


@router.post("/lookahead", responses=openapi.errors("4XX"))
async def lookahead(
    body: LookaheadRequest, request: Request, context: InContext
) -> LookaheadResponse:
    """Decide one step: K candidates, Q for each, the choice and its reason. Nothing is executed."""
    strategy = body.lookahead
    critic = context.parts.critic(body.critic)
    if body.candidates is not None:
        policy = Given(body.candidates)
        strategy = strategy.model_copy(update={"k": len(body.candidates)})
    else:
        policy = context.parts.policy(body.model)  # type: ignore[assignment]
    with context.permit():
        step = guided_step(
            policy,
            critic,
            body.messages,
            strategy,
            body.session,
            score_one=body.candidates is not None,
        )
        decision = await while_present(request, step)
    return LookaheadResponse(decision=decision, message=decision.message)


@router.post("/score")
async def score(body: ScoreRequest, request: Request, context: InContext) -> ScoreResponse:
    """Q of candidates in a state, or of every agent turn of a history."""
    critic = _needed(context.parts.critic(body.critic))
    with context.permit():
        if body.candidates is None:
            work = critic.score_turns(body.messages)
        else:
            work = critic.score(body.messages, body.candidates, session=body.session)
        scores = await while_present(request, work)
    return ScoreResponse(
        critic=critic.name, q=[s.q for s in scores], spread=[s.spread for s in scores]
    )


@router.post("/selections")
async def selections(
    body: SelectionRequest, request: Request, context: InContext
) -> SelectionResponse:
    """Rank finished trajectories or sessions, and choose one or abstain."""
    trajectories = body.trajectories or await _of_sessions(context, body.sessions)
    with context.permit():
        if body.rescore:
            critic = _needed(context.parts.critic(body.critic))
            await while_present(request, _rescore(critic, trajectories))
    choice = select(trajectories, abstain_below=body.abstain_below, rule=body.rule)
    return SelectionResponse(
        chosen=choice.chosen,
        ranking=choice.ranking,
        q=[trajectory.last_q for trajectory in trajectories],
        spread=[trajectory.last_spread for trajectory in trajectories],
        reason=choice.reason,
    )


async def _of_sessions(context: Context, sessions: list[str]) -> list[Trajectory]:
    try:
        return [await context.sessions.trajectory(session) for session in sessions]
    except SessionGone as error:
        raise ApiError(404, str(error), code="session_not_found", param="sessions") from error


async def _rescore(critic: Critic, trajectories: list[Trajectory]) -> None:
    async def one(trajectory: Trajectory) -> None:
        put_scores(trajectory.steps, await score_finished(critic, trajectory.messages))

    await all_of(one(trajectory) for trajectory in trajectories)


def _needed(critic: Critic | None) -> Critic:
    if critic is None:
        raise ApiError(503, "no critic is set up", code="critic_not_found", param="critic")
    return critic
