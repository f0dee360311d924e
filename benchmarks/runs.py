"""What the service itself takes of a run, and how that grows: with runs at once, with steps.

    make bench-runs

One worker over real Redis; policy, critic and sandbox take a fixed time, so that what a step takes
beyond them is the service's own. Read off the journals: from one observation of a trajectory to the
next, while all runs are at it together. The JSON is kept in build/bench.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from redis.asyncio import Redis

from benchmarks import usage
from pilotfish import AsyncPilotfish, Lookahead, Strategy, Task
from pilotfish.api import FINAL_STATUSES
from pilotfish.strategy import RolloutSettings
from service.app import create_app
from service.local.redis_server import redis_server
from service.redis_state import RedisState
from service.sandboxes.bubblewrap import BubblewrapProvider, BubblewrapSettings
from service.settings import FakePolicySettings, Settings

POLICY, CRITIC, SANDBOX = 2.0, 0.05, 0.5
"""Seconds of each, of a step."""
K = 4
ARRIVING = 3
"""Steps' time over which runs arrive."""
TASK = Task(id="bench", statement="Say where you are. " * 20, image="timed")


class Measured:
    """A worker's process over an empty Redis."""

    def __init__(self, client: AsyncPilotfish, state: RedisState, redis: Any, pid: int) -> None:
        self.client, self.state, self.redis, self.pid = client, state, redis, pid

    def rss(self) -> int:
        """Bytes in memory of the worker's process."""
        return usage.rss(self.pid)

    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        return usage.cpu(self.pid)

    async def counts(self) -> dict[str, float]:
        """Of Redis: commands, bytes that came in and went out, bytes that it holds."""
        stats, memory = await self.redis.info("stats"), await self.redis.info("memory")
        return {
            "commands": stats["total_commands_processed"],
            "bytes in": stats["total_net_input_bytes"],
            "bytes out": stats["total_net_output_bytes"],
            "held": memory["used_memory"],
        }


@asynccontextmanager
async def measured(concurrent: int) -> AsyncIterator[Measured]:
    async with redis_server() as url:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.runs_worker", url, str(port), str(concurrent)),
            *(str(POLICY), str(CRITIC), str(SANDBOX)),
            stdout=asyncio.subprocess.PIPE,
        )
        redis: Any = Redis.from_url(url)
        state = RedisState(url, lifetime=3600)
        try:
            assert worker.stdout is not None
            if (await worker.stdout.readline()).strip() != b"ready":
                raise SystemExit("the worker did not start")
            async with AsyncPilotfish(f"http://127.0.0.1:{port}", timeout=60) as client:
                yield Measured(client, state, redis, worker.pid)
        finally:
            await state.close()
            await redis.aclose()
            if worker.returncode is None:
                worker.send_signal(signal.SIGTERM)
            await worker.wait()


async def many(runs: int, steps: int) -> dict[str, Any]:
    """``runs`` at once, each of one trajectory of ``steps`` steps."""
    async with measured(runs) as world:
        await _one(world, 2)  # what is loaded late is loaded now
        before, memory, cpu = await world.counts(), world.rss(), world.cpu()
        began, peak = time.monotonic(), memory
        limits, step = asyncio.Semaphore(32), POLICY + CRITIC + SANDBOX

        async def create(number: int) -> str:
            # Spread, as arrivals are: latencies are fixed, so that runs that began together would
            # ask for everything together for ever.
            await asyncio.sleep(ARRIVING * step * number / runs)
            async with limits:
                return (await world.client.create_run(TASK, _strategy(steps))).id

        ids = await asyncio.gather(*(create(number) for number in range(runs)))
        waiting = set(ids)
        while waiting:
            await asyncio.sleep(1.0)
            peak = max(peak, world.rss())
            for run_id in list(waiting):
                if await world.state.status(run_id) not in FINAL_STATUSES:
                    break
                waiting.discard(run_id)
        seconds, after, used = time.monotonic() - began, await world.counts(), world.cpu() - cpu
        own = _own_seconds([await _observed(world, run_id) for run_id in ids])
        statuses = {await world.state.status(run_id) for run_id in ids}
    own.sort()
    count = runs * steps
    return {
        "runs": runs,
        "steps": steps,
        "statuses": sorted(map(str, statuses)),
        "seconds": round(seconds, 1),
        "least_seconds": round((steps + ARRIVING * (runs - 1) / runs) * step, 1),
        "own_ms": {
            "steps": len(own),
            "median": round(1000 * statistics.median(own), 2),
            "p99": round(1000 * own[int(0.99 * len(own))], 2),
            "max": round(1000 * own[-1], 2),
        },
        "cpu_ms_a_step": round(1000 * used / count, 2),
        "kB_a_run": round((peak - memory) / runs / 1000, 1),
        "redis_a_step": {name: round((after[name] - before[name]) / count, 1) for name in before},
    }


async def _observed(world: Measured, run_id: str) -> list[float]:
    """When each step of a run ended."""
    return [e["at"] for e in await world.state.entries(run_id) if e["kind"] == "observed"]


def _own_seconds(observed: list[list[float]]) -> list[float]:
    """Of each step while all runs were at it, and not at their first, which waits for its sandbox:
    wall time less what was fixed. Of runs that were never all at it together, of all steps."""
    fixed = POLICY + CRITIC + SANDBOX
    together = max(seen[0] for seen in observed), min(seen[-1] for seen in observed)
    every = [pair for seen in observed for pair in itertools.pairwise(seen)]
    within = [(a, b) for a, b in every if together[0] <= a and b <= together[1]]
    return [later - earlier - fixed for earlier, later in within or every]


async def _one(world: Measured, steps: int) -> None:
    await world.client.run(TASK, _strategy(steps))


async def growth(short: int, long: int) -> dict[str, Any]:
    """Redis's commands and bytes of a step, in short and in long trajectories."""
    per_step = {}
    for steps in (short, long):
        async with measured(4) as world:
            await _one(world, 2)
            before = await world.counts()
            await asyncio.gather(*(_one(world, steps) for _ in range(4)))
            after = await world.counts()
            per_step[steps] = {
                name: round((after[name] - before[name]) / (4 * steps), 1)
                for name in ("commands", "bytes in")
            }
    ratio = {
        name: round(per_step[long][name] / per_step[short][name], 3) for name in per_step[short]
    }
    return {"per_step": per_step, "long_to_short": ratio}


async def bubblewrap(commands: int = 200) -> dict[str, Any]:
    """Real sandboxes of this machine: a start, a command beyond its own time, and how long a run
    takes to be cancelled while a command runs."""
    task = Task(id="bench", statement="Wait.", image="host")
    with tempfile.TemporaryDirectory() as folder:
        settings = BubblewrapSettings(state_dir=Path(folder, "sandboxes"))
        began = time.perf_counter()
        async with BubblewrapProvider(settings).start(task) as sandbox:
            start = time.perf_counter() - began
            seconds = []
            for i in range(commands):
                began = time.perf_counter()
                await sandbox.execute("true", action_id=str(i), timeout=10)
                seconds.append(time.perf_counter() - began)
        cancelled = [await _cancelled(task, settings) for _ in range(5)]
    seconds.sort()
    return {
        "start_ms": round(1000 * start, 1),
        "command_ms": {
            "median": round(1000 * statistics.median(seconds), 2),
            "p99": round(1000 * seconds[int(0.99 * commands)], 2),
        },
        "cancel_seconds": {
            "median": round(statistics.median(cancelled), 2),
            "max": round(max(cancelled), 2),
        },
    }


async def _cancelled(task: Task, sandboxes: BubblewrapSettings) -> float:
    """From the call to the run's end, sandbox removed, over HTTP."""
    async with redis_server() as url:
        says = FakePolicySettings(type="fake", says=["```bash\ntouch begun; sleep 1000\n```"])
        service = Settings(
            policies={"p": says}, sandboxes={"b": sandboxes}, redis_url=url, log_level="error"
        )
        server = uvicorn.Server(
            uvicorn.Config(create_app(service), port=0, log_level="error", access_log=False)
        )
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with AsyncPilotfish(f"http://127.0.0.1:{port}") as client:
            plan = Strategy(lookahead=Lookahead(k=1), rollout=RolloutSettings(command_timeout=2000))
            run = await client.create_run(task, plan)
            state = RedisState(url, lifetime=60)
            while not any(e["kind"] == "decided" for e in await state.entries(run.id)):
                await asyncio.sleep(0.05)
            began = time.perf_counter()
            await client.cancel_run(run.id)
            while await state.status(run.id) not in FINAL_STATUSES:
                await asyncio.sleep(0.01)
            seconds = time.perf_counter() - began
            await state.close()
        server.should_exit = True
        await serving
    return seconds


def _strategy(steps: int) -> Strategy:
    return Strategy(lookahead=Lookahead(k=K), rollout=RolloutSettings(max_steps=steps))


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("build/bench/runs.json"))
    given = parser.parse_args()
    report: dict[str, Any] = {
        "policy_seconds": POLICY, "critic_seconds": CRITIC, "sandbox_seconds": SANDBOX, "k": K,
        "cores": os.cpu_count(), "load_before": os.getloadavg()[0],
    }  # fmt: skip
    report["at once"] = []
    for runs in given.runs:
        found = await many(runs, given.steps)
        print(json.dumps(found), flush=True)
        report["at once"].append(found)
    report["long"] = await many(20, 4 * given.steps)
    print(json.dumps(report["long"]), flush=True)
    report["growth"] = await growth(given.steps, 3 * given.steps)
    print(json.dumps(report["growth"]), flush=True)
    report["bubblewrap"] = await bubblewrap()
    print(json.dumps(report["bubblewrap"]), flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    asyncio.run(main())
