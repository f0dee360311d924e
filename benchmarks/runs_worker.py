"""The process that ``benchmarks.runs`` measures: the real service with one worker, over a policy, a
critic and sandboxes that take a fixed time and nothing else. Knows nothing of what is measured.

    python -m benchmarks.runs_worker REDIS_URL PORT CONCURRENT POLICY CRITIC SANDBOX
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import uvicorn

from pilotfish import Message, Observation, Task
from pilotfish.strategy import Sampling
from search.contracts import Sample, Sandbox
from search.fakes import FakeCritic, FakeSandbox, FakeSandboxes
from service.__main__ import calm_collector, configure_logs
from service.app import create_app
from service.settings import FakePolicySettings, FakeSandboxSettings, Settings

WORDS = "the quick brown fish swims ahead of the large one and looks around " * 4
OUTPUT = "a line of output that a command has printed\n" * 20


class TimedPolicy:
    """K candidates of some 300 characters, all complete ``seconds`` after they were asked for."""

    name = "timed"

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def sample(
        self, state: Sequence[Message], n: int, sampling: Sampling, *, session: str | None = None
    ) -> AsyncIterator[Sample]:
        await asyncio.sleep(self._seconds)
        for i in range(n):
            text = f"{WORDS}{i}\n```bash\necho {len(state)} {i}\n```"
            yield Sample(index=i, message=Message.assistant(text), tokens=80, prompt_tokens=100)


class TimedSandbox(FakeSandbox):
    """Every command takes ``seconds``."""

    seconds = 0.0

    async def execute(
        self, command: str, *, action_id: str, timeout: float, cwd: str | None = None
    ) -> Observation:
        await asyncio.sleep(self.seconds)
        return Observation(output=OUTPUT, exit_code=0)


class TimedSandboxes(FakeSandboxes):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds, self._count = seconds, 0

    @asynccontextmanager
    async def start(
        self, task: Task, *, labels: dict[str, str] | None = None
    ) -> AsyncIterator[Sandbox]:
        self._count += 1
        sandbox = TimedSandbox(f"timed-{self._count}", lambda command: "")
        sandbox.seconds = self._seconds
        yield sandbox


async def main() -> None:
    redis_url, port, concurrent = sys.argv[1:4]
    policy, critic, sandbox = map(float, sys.argv[4:])
    settings = Settings(
        policies={"timed": FakePolicySettings(type="fake", says=["x"])},
        sandboxes={"timed": FakeSandboxSettings(type="fake")},
        redis_url=redis_url,
        concurrent_runs=int(concurrent),
        admission={"timed": {"starting": None}},
        log_level="error",
    )
    configure_logs("error")  # else the log fills the pipe that only our first line is read from
    app = create_app(settings)
    calm_collector()
    server = uvicorn.Server(
        uvicorn.Config(app, port=int(port), log_level="error", access_log=False)
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    parts = app.state.context.parts
    parts.policies["timed"] = TimedPolicy(policy)
    parts.critics["timed"] = FakeCritic(lambda state, action: 0.5, delay=critic)
    parts.sandboxes["timed"] = TimedSandboxes(sandbox)
    print("ready", flush=True)
    await serving


if __name__ == "__main__":
    uvicorn_loop = asyncio.Runner()
    try:
        import uvloop

        uvicorn_loop = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        pass
    with uvicorn_loop as runner:
        runner.run(main())
