"""Assembles the process: its parts, its worker, its routes. Does nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import Depends, FastAPI, Request, Response

from critic.checkpoint import read_card
from service import errors, openapi
from service.auth import require_key
from service.body_limit import BodyLimit
from service.critics.published import renderer_of
from service.metrics import MetricsMiddleware
from service.parts import Parts
from service.redis_connection import StateError
from service.redis_responses import RedisResponses
from service.redis_sessions import RedisSessions
from service.redis_state import RedisState
from service.routes import (
    chat,
    lookahead,
    messages,
    models,
    operations,
    responses,
    runs,
    sessions,
)
from service.routes.context import ClientGone, Context
from service.runs.reconciler import Reconciler
from service.runs.worker import RunWorker
from service.sandboxes.admission import Admissions
from service.sessions import Sessions
from service.settings import (
    ClassifyCriticSettings,
    Settings,
    TorchCriticSettings,
    VllmCriticSettings,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application. Its parts are opened when it starts and closed when it stops."""
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.context = await _open(settings, stack)
            yield

    app = FastAPI(
        title="Pilotfish",
        description="Test-time guided search for LLM agents.",
        version="0.1.0",
        lifespan=lifespan,
    )
    app.state.settings = settings
    errors.install(app)
    openapi.install(app)
    app.add_exception_handler(ClientGone, _nobody)
    app.add_middleware(BodyLimit, megabytes=settings.max_body_mb)
    app.add_middleware(MetricsMiddleware)
    app.include_router(operations.router)
    keyed = [Depends(require_key)]
    for routes in (chat, responses, messages, models):
        app.include_router(routes.router, dependencies=keyed)
        # for whoever can change nothing but a base URL
        app.include_router(
            routes.router,
            prefix="/sessions/{session}",
            dependencies=[*keyed, Depends(sessions.named_in_path)],
            responses=openapi.errors(400),
        )
    for routes in (lookahead, runs, sessions):
        app.include_router(routes.router, dependencies=keyed)
    return app


async def check(settings: Settings) -> None:
    """What a user can mend, found before anything is opened: a critic that is none, a Redis that
    is not there. Raises: ``CriticInputError``; ``StateError``."""
    for critic in settings.critics.values():
        if isinstance(critic, VllmCriticSettings | TorchCriticSettings):
            read_card(critic.checkpoint)
        if isinstance(critic, ClassifyCriticSettings):
            renderer_of(critic)
    try:
        state = RedisState(settings.redis_url, lifetime=settings.run_lifetime)
    except ValueError as error:
        raise StateError(f"redis_url: {error}") from error
    try:
        if not await state.ping():
            where = settings.redis_url.rpartition("@")[2]  # what is before may be a password
            raise StateError(f"Redis does not answer at {where}: start it, or set redis_url")
    finally:
        await state.close()


async def _open(settings: Settings, stack: AsyncExitStack) -> Context:
    parts = await stack.enter_async_context(Parts(settings))
    state = RedisState(settings.redis_url, lifetime=settings.run_lifetime)
    stack.push_async_callback(state.close)
    kept = Sessions(RedisSessions(state.redis, state.scripted, lifetime=settings.session_lifetime))
    told = RedisResponses(state.redis, lifetime=settings.run_lifetime)
    context = Context(settings, parts, state, kept, told)
    if settings.worker:
        admissions = Admissions(
            parts.sandboxes,
            settings.admission,
            settings.sandboxes,
            state,
            reconcile=settings.reconcile,
        )
        await stack.enter_async_context(Reconciler(admissions, state, every=settings.reconcile))
        worker = RunWorker(settings, parts, state, admissions)
        context.worker = await stack.enter_async_context(worker)
    return context


async def _nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)
