"""A run on real vLLM whose policy's server, and then whose critic's, is killed at its work."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from examples.bugfix.collect import MAX_MODEL_LEN, POLICY_ARGUMENTS, strategy, tasks_of
from pilotfish import AsyncPilotfish
from pilotfish.api import FINAL_STATUSES
from service.app import create_app
from service.local.vllm_server import VllmSettings, free_port, vllm_server
from service.settings import EndpointPolicy, Settings, VllmCriticSettings
from tests.e2e.conftest import CRITIC, POLICY
from tests.upstream import serving

pytestmark = pytest.mark.vllm


class Server:
    """A vLLM server on a port of its own, that can be killed and started again."""

    def __init__(self, stack: AsyncExitStack, folder: Path, logs: Path, **settings: object) -> None:
        self._stack, self._log = stack, logs / f"{folder.name}.log"
        self.port = free_port()
        self._settings = VllmSettings(
            model=str(folder),
            name=folder.name,
            port=self.port,
            max_model_len=MAX_MODEL_LEN,
            eager=True,
            **settings,
        )

    async def start(self) -> None:
        await self._stack.enter_async_context(vllm_server(self._settings, log_file=self._log))

    def kill(self) -> None:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and self._is(int(name))]
        assert pids
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def _is(self, pid: int) -> bool:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        guards = any(word.endswith(b"guardian.py") for word in words)  # who cleans up behind it
        return not guards and str(self.port).encode() in words and b"--port" in words


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.02)


async def test_a_run_outlasts_its_servers(redis_url: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        policy = Server(stack, POLICY, tmp_path, arguments=POLICY_ARGUMENTS)
        critic = Server(stack, CRITIC, tmp_path, runner="pooling")
        await asyncio.gather(policy.start(), critic.start())
        address = f"http://127.0.0.1:{critic.port}"
        settings = Settings(
            policies={
                "p": EndpointPolicy(url=f"http://127.0.0.1:{policy.port}/v1", model=POLICY.name)
            },
            critics={
                "c": VllmCriticSettings(url=address, model=CRITIC.name, checkpoint=str(CRITIC))
            },
            redis_url=f"{redis_url}?db=8",
        )
        url = await stack.enter_async_context(serving(create_app(settings)))
        client = await stack.enter_async_context(AsyncPilotfish(url, timeout=60))
        plan = strategy(k=4, n=6, seed=1)
        plan.rollout.patience = 300  # a server takes half a minute to start
        run = await client.create_run(tasks_of("heldout", 1)[0], plan)
        decided = 0

        async def follow() -> None:
            nonlocal decided
            async for event in client.events(run.id):
                decided += event.kind == "decided"

        following = asyncio.create_task(follow())
        for server in (policy, critic):
            before = decided
            await until(lambda: decided > before)  # noqa: B023
            server.kill()
            assert (await client.get_run(run.id)).status not in FINAL_STATUSES
            await server.start()
        await following
        ended = await client.get_run(run.id)
        assert ended.status == "succeeded"
        trajectories = await client.trajectories(run.id)
        assert len(trajectories) == 6  # none was lost, and replaced
        decisions = [step.decision for t in trajectories for step in t.steps]
        assert not any(decision.degraded for decision in decisions)
        assert all(c.q is not None for decision in decisions for c in decision.candidates)
