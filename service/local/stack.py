"""Everything on one machine: embedded Redis, policy and critic on vLLM, and the service over them,
in one async context manager. Knows nothing of what it is used for.

Leaving it ends all it started, on success, failure or Ctrl-C; the servers' guardians end them also
when this process is killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import uvicorn
from pydantic import BaseModel, ConfigDict, Field

from critic.checkpoint import read_card
from search.errors import SearchError
from service.app import create_app
from service.local.redis_server import redis_server
from service.local.vllm_server import VllmServer, VllmSettings, free_port, vllm_server
from service.sandboxes.bubblewrap import BubblewrapSettings
from service.settings import EndpointPolicy, Settings, TorchCriticSettings, VllmCriticSettings


class StackSettings(BaseModel):
    """What to run."""

    model_config = ConfigDict(extra="forbid")

    policy: Path
    """Folder of a causal LM."""
    policy_name: str = "policy"
    critics: dict[str, Path] = Field(default_factory=dict)
    """Folders of critics, by name; the first is the default one."""
    critic_backend: Literal["vllm", "torch"] = "vllm"
    host: str = "127.0.0.1"
    port: int | None = None
    """Of the service; by default a free one."""
    max_model_len: int | None = None
    logs: Path | None = None
    """Folder for the servers' logs; by default they go when the stack does."""
    redis_data: Path | None = None
    """Folder that keeps runs for the next time."""
    eager: bool = False
    policy_arguments: list[str] = Field(default_factory=list)
    """Further arguments of the policy's server."""
    service: dict[str, Any] = Field(default_factory=dict)
    """Further ``service.settings.Settings``."""


class Stack(NamedTuple):
    """A stack that is up."""

    url: str
    """Of the service."""
    servers: dict[str, VllmServer]
    """The vLLM servers: ``policy``, and ``critic NAME`` for each critic."""


Report = Callable[[str], None]


@asynccontextmanager
async def local_stack(
    settings: StackSettings, *, report: Report = lambda text: None
) -> AsyncIterator[Stack]:
    """Run it all. ``report`` hears what is being done.

    Raises: ``SearchError`` with the end of a server's log if it does not start;
    ``CriticInputError`` for a folder that is no critic.
    """
    for folder in settings.critics.values():
        read_card(folder)  # before minutes are spent on starting
    async with AsyncExitStack() as stack:
        report("starting Redis")
        redis_url = await stack.enter_async_context(redis_server(settings.redis_data))
        report("starting vLLM for the policy" + (" and the critic" if settings.critics else ""))
        servers = await _start_models(settings, stack)
        report("starting the service")
        service = Settings(
            policies={
                settings.policy_name: EndpointPolicy(
                    url=f"{servers['policy'].url}/v1",
                    model=servers["policy"].model,
                    continuous_usage=True,
                )
            },
            critics={name: _critic(settings, name, servers) for name in settings.critics},
            redis_url=redis_url,
            **_sandboxes(settings) | settings.service,
        )
        yield Stack(await stack.enter_async_context(_serve(settings, service)), servers)


def _sandboxes(settings: StackSettings) -> dict[str, Any]:
    """Where runs are not kept for the next time, nobody would come back to their sandboxes."""
    outlive = settings.redis_data is not None
    return {"sandboxes": {"bubblewrap": BubblewrapSettings(outlive_parent=outlive)}}


async def _start_models(settings: StackSettings, stack: AsyncExitStack) -> dict[str, VllmServer]:
    """All vLLM servers at once: each takes most of a minute."""
    policy = VllmSettings(
        model=str(settings.policy),
        name=settings.policy_name,
        arguments=settings.policy_arguments,
    )
    wanted = {"policy": policy}
    if settings.critic_backend == "vllm":
        for name, folder in settings.critics.items():
            wanted[f"critic {name}"] = VllmSettings(model=str(folder), name=name, runner="pooling")
    common = {"max_model_len": settings.max_model_len, "eager": settings.eager}
    if settings.logs is not None:
        settings.logs.mkdir(parents=True, exist_ok=True)

    async def start(key: str, vllm: VllmSettings) -> VllmServer:
        log = None if settings.logs is None else settings.logs / f"{key.replace(' ', '-')}.log"
        server = vllm_server(vllm.model_copy(update=common), log_file=log)
        opened = await server.__aenter__()
        stack.push_async_exit(server.__aexit__)
        return opened

    starting = {key: asyncio.create_task(start(key, vllm)) for key, vllm in wanted.items()}
    try:
        return {key: await task for key, task in starting.items()}
    finally:
        for task in starting.values():
            task.cancel()
        await asyncio.gather(*starting.values(), return_exceptions=True)


def _critic(
    settings: StackSettings, name: str, servers: dict[str, VllmServer]
) -> VllmCriticSettings | TorchCriticSettings:
    folder = str(settings.critics[name])
    if settings.critic_backend == "torch":
        return TorchCriticSettings(type="torch", checkpoint=folder)
    server = servers[f"critic {name}"]
    return VllmCriticSettings(url=server.url, model=server.model, checkpoint=folder)


@asynccontextmanager
async def _serve(settings: StackSettings, service: Settings) -> AsyncIterator[str]:
    port = settings.port or free_port()
    config = uvicorn.Config(
        create_app(service),
        host=settings.host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:
            if serving.done():
                raise SearchError(f"the service did not start on {settings.host}:{port}")
            await asyncio.sleep(0.01)
        yield f"http://{settings.host}:{port}"
    finally:
        server.should_exit = True
        await asyncio.shield(asyncio.gather(serving, return_exceptions=True))


class _Server(uvicorn.Server):
    """Leaves signals to us: the stack ends in its own order."""

    def capture_signals(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()
