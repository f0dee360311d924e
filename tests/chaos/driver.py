"""Runs under a driver that kills or freezes a random part every few seconds, and what must be true
afterwards.

    python -m tests.chaos.driver --runs 60 --every 2

Every part is a process of its own, started again when it was killed: Redis (append-only file on),
the policy's and the judge's servers, the API, two workers. Sandboxes are killed too. Policy and
judge are functions of what they are asked, so that what a quiet run would have done is known.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import yaml
from redis.asyncio import Redis
from redis.exceptions import RedisError

from pilotfish import AsyncPilotfish, Evaluation, Lookahead, Selection, Strategy, Task, Trajectory
from pilotfish.api import FINAL_STATUSES
from pilotfish.errors import PilotfishError
from pilotfish.strategy import RolloutSettings
from service.local.process import ProcessId
from service.local.redis_server import find_binary
from service.sandboxes.state import StateFolder
from tests.chaos.endpoints import TURNS, expected_q
from tests.chaos.hosts import Hosts

ROOT = Path(__file__).parents[2]
K = 3
LEASE = 3.0
WORKERS = 2
TARGETS = ["worker-0", "worker-1", "worker-0", "worker-1", "frozen", "frozen", "sandbox", "sandbox",
           "redis", "policy", "judge", "api", "cut off", "full", "frozen sandbox"]  # fmt: skip
"""Each as likely as it stands here often. ``frozen``: a worker is stopped, maybe for longer than
its lease; ``cut off``: worker-0 does not reach Redis; ``full``: Redis takes nothing more."""
LOST = {"SandboxLost", "SandboxError"}
"""How a trajectory ends whose sandbox was killed: when it was there, or while it started."""
STRATEGY = Strategy(
    lookahead=Lookahead(k=K),
    selection=Selection(n=2, concurrency=2),
    rollout=RolloutSettings(patience=120),
    max_replacements=10,
    replacement_pause=0.2,
)


class Part:
    """One process that is started again whenever it ends. It dies with us."""

    def __init__(self, name: str, command: list[str], folder: Path, env: dict[str, str]) -> None:
        self.name, self._command, self._env = name, command, env
        self._log = folder / f"{name}.log"
        self.process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Part:
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._watching is not None
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
                self.process.terminate()
            try:
                async with asyncio.timeout(20):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
                await self.process.wait()

    async def _watch(self) -> None:
        while True:
            with self._log.open("ab") as log:
                self.process = await asyncio.create_subprocess_exec(
                    *("setpriv", "--pdeathsig", "KILL", *self._command),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._env,
                    cwd=ROOT,
                )
            await self.process.wait()
            await asyncio.sleep(random.uniform(0, 1))

    def signal(self, number: int) -> bool:
        """Whether there was somebody to signal."""
        if self.process is None or self.process.returncode is not None:
            return False
        self.process.send_signal(number)
        return True


class World:
    """All parts, in one folder; with ``hosts``, each worker on one of them."""

    def __init__(self, folder: Path, rng: random.Random, hosts: Hosts | None = None) -> None:
        self.folder, self._rng, self._hosts = folder, rng, hosts
        self._here = hosts.here if hosts else "127.0.0.1"
        self.concurrent_runs = 16
        self.state = StateFolder(folder / "sandboxes")
        names = ["redis", "policy", "judge", "api", "wire", *_workers()]
        self.ports = dict(zip(names, _free(len(names)), strict=True))
        self.wire = Wire(self.ports["wire"], self.ports["redis"])
        self._passing: set[asyncio.Task[None]] = set()
        self.parts: dict[str, Part] = {}
        self.killed: Counter[str] = Counter()

    @property
    def redis_url(self) -> str:
        return f"redis://{self._here}:{self.ports['redis']}/0"

    @asynccontextmanager
    async def up(self) -> AsyncIterator[AsyncPilotfish]:
        env = dict(os.environ, PYTHONPATH=f"{ROOT}:{ROOT / 'clients' / 'python'}")
        for name in [name for name in env if name.startswith("PILOTFISH_")]:
            del env[name]
        commands = {
            "redis": [find_binary(), "--port", str(self.ports["redis"]), "--bind",
                      *sorted({"127.0.0.1", self._here}), "--protected-mode", "no",
                      "--appendonly", "yes", "--save", "", "--dir", str(self.folder)],
        }  # fmt: skip
        for name in ("policy", "judge"):
            commands[name] = [sys.executable, "-m", "tests.chaos.endpoints", name, self._here,
                              str(self.ports[name])]  # fmt: skip
        for name in ("api", *_workers()):
            config = self.folder / f"{name}.yaml"
            config.write_text(yaml.safe_dump(self._settings(name)))
            there = self._hosts.within(int(name[-1])) if self._hosts and name != "api" else []
            commands[name] = [*there, "env", f"PILOTFISH_CONFIG={config}", sys.executable, "-m",
                              "service", "serve", "--host", self._address(name), "--port",
                              str(self.ports[name])]  # fmt: skip
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.wire)
            for name, command in commands.items():
                part = Part(name, command, self.folder, env)
                self.parts[name] = await stack.enter_async_context(part)
            url = f"http://127.0.0.1:{self.ports['api']}"
            client = AsyncPilotfish(url, timeout=20, max_retries=8)
            await stack.enter_async_context(client)
            await self._ready(client)
            yield client

    def _address(self, name: str) -> str:
        if self._hosts is None or name == "api":
            return "127.0.0.1"
        return self._hosts.address(int(name[-1]))

    def _settings(self, name: str) -> dict[str, Any]:
        wired = name == "worker-0" and self._hosts is None
        redis_port = self.ports["wire" if wired else "redis"]
        policy = {"type": "openai", "url": f"http://{self._here}:{self.ports['policy']}/v1",
                  "model": "m", "logprobs": False, "timeout": 30}  # fmt: skip
        judge = {"type": "yes_no", "url": f"http://{self._here}:{self.ports['judge']}/v1",
                 "model": "m", "warm": False, "timeout": 5}  # fmt: skip
        box = {"type": "bubblewrap", "state_dir": str(self.state.path), "outlive_parent": True,
               "memory": 256 * 2**20, "disk": 8 * 2**20}  # fmt: skip
        return {
            "policies": {"policy": policy},
            "critics": {"judge": judge},
            "sandboxes": {"box": box},
            "redis_url": f"redis://{self._here}:{redis_port}/0",
            "worker": name != "api",
            "lease": LEASE,
            "reconcile": 1.0,
            "concurrent_runs": self.concurrent_runs,
        }

    async def _ready(self, client: AsyncPilotfish) -> None:
        async with asyncio.timeout(90), httpx.AsyncClient() as http:
            for name in ("api", *_workers()):
                while True:
                    with suppress(httpx.TransportError):
                        url = f"http://{self._address(name)}:{self.ports[name]}/health/readiness"
                        if (await http.get(url)).status_code == 200:
                            break
                    await asyncio.sleep(0.1)

    async def disturb(self, every: float, targets: Iterator[str]) -> None:
        """The next of ``targets``, every few seconds."""
        for target in targets:
            await asyncio.sleep(self._rng.uniform(0.5, 1.5) * every)
            while not await self._hit(target):  # there is nothing to hit just now
                await asyncio.sleep(0.05)
            self.killed[target] += 1

    async def _hit(self, target: str) -> bool:
        """Whether there was anything to hit."""
        seconds = self._rng.uniform(0.5, 2) * LEASE
        match target:
            case "sandbox":
                return self._signal_a_sandbox(signal.SIGKILL) is not None
            case "frozen sandbox":
                process = self._signal_a_sandbox(signal.SIGSTOP)
                if process is not None:
                    self._later(seconds, lambda: process.kill(signal.SIGCONT))
                return process is not None
            case "frozen":
                part = self.parts[self._rng.choice(_workers())]
                self._later(seconds, lambda: part.signal(signal.SIGCONT))
                return part.signal(signal.SIGSTOP)
            case "cut off":
                self.wire.cut = True
                self._later(seconds, self.wire.mend)
                return True
            case "full":
                return await self._fill(seconds)
        return self.parts[target].signal(signal.SIGKILL)

    def _signal_a_sandbox(self, number: int) -> ProcessId | None:
        live = [record.process for record in self.state.all() if record.process.alive]
        if not live:
            return None
        process = self._rng.choice(live)
        process.kill(number)
        return process

    async def _fill(self, seconds: float) -> bool:
        """Where Redis is killed meanwhile, it is as it was when it comes back."""
        redis: Any = Redis.from_url(self.redis_url, socket_timeout=2)
        try:
            await redis.config_set("maxmemory", 1)
            await asyncio.sleep(seconds)
            await redis.config_set("maxmemory", 0)
        except RedisError:
            return False
        finally:
            await redis.aclose()
        return True

    def _later(self, seconds: float, call: Callable[[], object]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            call()

        task = asyncio.create_task(wait())
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)

    async def calm(self) -> None:
        """All that was only to pass has passed, and Redis takes everything again."""
        await asyncio.gather(*self._passing)
        redis: Any = Redis.from_url(self.redis_url, socket_timeout=2)
        async with asyncio.timeout(60):
            while True:
                try:
                    await redis.config_set("maxmemory", 0)
                    break
                except RedisError:
                    await asyncio.sleep(0.2)
        await redis.aclose()


class Wire:
    """What worker-0 reaches Redis by. Cut, it takes and gives nothing, and says nothing."""

    def __init__(self, port: int, target: int) -> None:
        self._port, self._target = port, target
        self.cut = False
        self._mended = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()

    def mend(self) -> None:
        self.cut = False
        self._mended.set()
        self._mended = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._passable()
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, back}
        await asyncio.gather(
            self._carry(reader, back), self._carry(there, writer), return_exceptions=True
        )
        self._writers -= {writer, back}

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                await self._passable()
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    async def _passable(self) -> None:
        while self.cut:
            await self._mended.wait()


def _workers() -> list[str]:
    return [f"worker-{i}" for i in range(WORKERS)]


def _free(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def task(number: int) -> Task:
    return Task(
        id=f"chaos-{number}",
        statement="Write the log.",
        image="host",
        submission="cat log",
        evaluation=Evaluation(command=f'test "$(wc -l < log)" = {TURNS}'),
    )


async def _insisting(call: Any) -> Any:
    """What ``call`` gives, however often it has to be asked."""
    async with asyncio.timeout(300):
        while True:
            try:
                return await call()
            except PilotfishError:
                await asyncio.sleep(0.3)


async def chaos(
    *, runs: int, every: float, seed: int, folder: Path, in_turn: Sequence[str] = ()
) -> dict[str, Any]:
    """Run it; what was killed, how it ended, and ``wrong``: all that must not be, in words.
    ``in_turn`` names what is hit, in that order; else it is chance, until all runs have ended."""
    world = World(folder, random.Random(seed))
    if in_turn:
        world.concurrent_runs = 3  # so that there is something to hit for long enough
    began = time.monotonic()
    targets = iter(in_turn) if in_turn else _any_of(TARGETS, random.Random(seed))
    async with world.up() as client:
        disturbing = asyncio.create_task(world.disturb(every, targets))
        try:
            made = [
                await _insisting(
                    lambda i=i: client.create_run(
                        task(i),
                        STRATEGY.model_copy(update={"seed": seed * 1000 + i}),
                        idempotency_key=f"chaos-{seed}-{i}",
                    )
                )
                for i in range(runs)
            ]
            ended = await asyncio.gather(*(_end_of(client, run.id) for run in made))
        finally:
            disturbing.cancel()
            await asyncio.gather(disturbing, return_exceptions=True)
        await world.calm()
        await world._ready(client)
        wrong: list[str] = []
        listed = [run.id async for run in client.list_runs()]
        if sorted(listed) != sorted(run.id for run in made):
            wrong.append(f"{len(listed)} runs are listed, {len(made)} were made")
        lost = 0
        for run in ended:
            trajectories = await _insisting(lambda run=run: client.trajectories(run.id))
            lost += sum(t.exit_status in LOST for t in trajectories)
            wrong += [f"run {run.id}: {what}" for what in _check_run(run, trajectories)]
        wrong += await _check_journals(world, [run.id for run in made])
        wrong += await _check_left(world)
    if lost > world.killed["sandbox"]:
        wrong.append(f"{lost} sandboxes were lost, {world.killed['sandbox']} were killed")
    wrong += await _check_processes(folder)
    return {
        "runs": runs,
        "seconds": round(time.monotonic() - began, 1),
        "killed": dict(world.killed),
        "sandboxes_lost": lost,
        "wrong": wrong,
    }


def _any_of(targets: Sequence[str], rng: random.Random) -> Iterator[str]:
    while True:
        yield rng.choice(targets)


async def _end_of(client: AsyncPilotfish, run_id: str) -> Any:
    async with asyncio.timeout(900):
        while True:
            run = await _insisting(lambda: client.get_run(run_id))
            if run.status in FINAL_STATUSES:
                return run
            await asyncio.sleep(1.0)


def _check_run(run: Any, trajectories: list[Trajectory]) -> list[str]:
    """Whether it is what an undisturbed one would have been, but for what was lost."""
    wrong = []
    if run.status != "succeeded" or run.selected is None:
        wrong.append(f"{run.status}, selected {run.selected}: {run.error}")
    submitted = [t for t in trajectories if t.exit_status == "Submitted"]
    others = [t.exit_status for t in trajectories if t.exit_status != "Submitted"]
    if len(submitted) != 2 or set(others) - LOST:
        wrong.append(f"{len(submitted)} submitted, others {others}")
    for trajectory in submitted:
        wrong += _check_trajectory(trajectory)
    if any(t.reward is not None for t in trajectories if t.exit_status in LOST):
        wrong.append("a lost sandbox has a reward")
    return wrong


def _check_trajectory(trajectory: Trajectory) -> list[str]:
    wrong, expected = [], ""
    if len(trajectory.steps) != TURNS + 1 or trajectory.reward != 1.0:
        wrong.append(f"{len(trajectory.steps)} steps, reward {trajectory.reward}")
    for number, step in enumerate(trajectory.steps):
        decision = step.decision
        texts = [c.message.text for c in decision.candidates if c.message]
        if len(texts) != K or decision.degraded or any(c.q is None for c in decision.candidates):
            wrong.append(f"step {number} was not whole: {decision.notes}")
            continue
        if decision.message.text != max(texts, key=expected_q):
            wrong.append(f"step {number} is not the best of its candidates")
        if any(
            abs((c.q or 0) - expected_q(c.message.text)) > 1e-6
            for c in decision.candidates
            if c.message
        ):
            wrong.append(f"step {number} has another Q")
        if number < TURNS:
            expected += decision.message.text.split("echo ")[1].split(" >>")[0] + "\n"
            if step.observation is None or step.observation.output.strip() != str(number + 1):
                wrong.append(f"step {number} saw {step.observation}")
    if trajectory.submission != expected:
        wrong.append(f"an action ran twice, or not: {trajectory.submission!r}")
    return wrong


async def _check_journals(world: World, run_ids: list[str]) -> list[str]:
    """No step is lost or doubled, and a run ends once."""
    from service.redis_state import RedisState

    wrong = []
    state = RedisState(world.redis_url, lifetime=60)
    try:
        for run_id in run_ids:
            entries = await state.entries(run_id)
            if [e["kind"] for e in entries].count("run_ended") != 1:
                wrong.append(f"run {run_id} ended not once")
            for kind in ("decided", "observed"):
                steps: dict[str, list[int]] = {}
                for entry in entries:
                    if entry["kind"] == kind:
                        steps.setdefault(entry["trajectory"], []).append(entry["step"])
                for trajectory, numbers in steps.items():
                    if numbers != list(range(len(numbers))):
                        wrong.append(f"run {run_id}, {trajectory}: {kind} {numbers}")
    finally:
        await state.close()
    return wrong


async def _check_left(world: World) -> list[str]:
    """No sandbox, no key without a lifetime, nothing still held or waited for."""
    wrong = []
    try:
        async with asyncio.timeout(60):
            while any(world.state.path.iterdir()):
                await asyncio.sleep(0.2)
    except TimeoutError:
        wrong.append(f"sandboxes are left: {[p.name for p in world.state.path.iterdir()]}")
    redis: Any = Redis.from_url(world.redis_url)
    try:
        keys = [key async for key in redis.scan_iter("*")]
        forever = [key for key in keys if await redis.ttl(key) < 0]
        if forever:
            wrong.append(f"keys without a lifetime: {forever}")
        names = ["due", "leases", f"places:box@{socket.gethostname()}:running"]
        try:
            async with asyncio.timeout(30):  # what a start that was cut off took ends after 15
                while held := [n for n in names if await _there(redis, n)]:
                    await asyncio.sleep(0.5)
        except TimeoutError:
            wrong.append(f"left in {held}")
    finally:
        await redis.aclose()
    return wrong


async def _there(redis: Any, name: str) -> int:
    return int(await redis.zcount(f"pilotfish:{name}", time.time(), "inf"))


async def _check_processes(folder: Path) -> list[str]:
    """Nothing runs any more that names our folder: parts, bubblewrap, what an agent started. What
    its starter did not live to record ends by itself."""
    try:
        async with asyncio.timeout(40):
            while _processes(folder):
                await asyncio.sleep(0.5)
    except TimeoutError:
        return [f"processes are left: {_processes(folder)}"]
    return []


def _processes(folder: Path) -> list[str]:
    left = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        with suppress(OSError):
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            files = [os.readlink(fd) for fd in (process / "fd").iterdir()]
            if str(folder).encode() in words or any(f.startswith(str(folder)) for f in files):
                left.append(f"{process.name}: {words[:100]!r}")
    return left


def main() -> None:
    """Print the report as JSON; exit with 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between disturbances")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--out", type=Path, help="file for the report")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="pilotfish-chaos-"))
    report = asyncio.run(chaos(runs=given.runs, every=given.every, seed=given.seed, folder=folder))
    text = json.dumps(report | {"seed": given.seed}, indent=1)
    print(text)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text)
    if report["wrong"]:
        print(f"the parts' logs: {folder}", file=sys.stderr)
        raise SystemExit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
