"""Rows like SWE-bench's, from a file to ``preds.json``: a real service and worker, real containers
with the repositories in them, real pytest. Policy and judge alone are scripted.

One image is as SWE-bench's own, where a Python environment beside the system's has pytest; in the
others the system's has it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pilotfish.swebench import TESTBED, task_of
from tests.chaos.driver import ROOT, Part, _free
from tests.chaos.endpoints import judged, said
from tests.service.sandboxes.podman import IMAGE, Podman
from tests.swebench_rows import Instance, git, make
from tests.upstream import serving

pytestmark = pytest.mark.containers
OWNER = "swebench"
PYTEST = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")
PATIENCE = 300.0
"""Seconds for whatever takes a few where the machine has nothing else to do."""
GATE = "touch /tmp/here; until [ -e /tmp/go ]; do sleep 0.1; done; "
"""A command that waits to be let on."""


# ---- what the agents do

WORTH = {"mend": 0.9, "break": 0.6, "cheat": 0.4, "stray": 0.3}
"""What the judge says of a plan's submission."""
PLANS = {
    "tiny__sums-1": ["stray", "mend", "break"],
    "tiny__words-1": ["cheat", "stray", "mend"],
    "tiny__bounds-1": ["cheat", "break", "stray"],
}
BREAKING = {
    "tiny__sums-1": ("sums.py", "def total(items):\n    return sum(items) if items else 7\n"),
    "tiny__words-1": (
        "words/__init__.py",
        "def initials(name):\n    return ''.join(w[0].upper() for w in name.split())\n\n\n"
        "def shout(text):\n    return text\n",
    ),
    "tiny__bounds-1": (
        "src/bounds.py",
        "def clip(value, low, high):\n    return min(value, high)\n",
    ),
}
"""It passes what failed, and fails what passed."""


def doing(plan: str, row: dict[str, Any]) -> str:
    if plan == "mend":
        return f"git apply <<'END'\n{row['patch']}END"
    if plan == "break":
        file, text = BREAKING[row["instance_id"]]
        return f"cat >{file} <<'END'\n{text}END"
    if plan == "cheat":
        tests = [*json.loads(row["FAIL_TO_PASS"]), *json.loads(row["PASS_TO_PASS"])]
        files = sorted({test.split("::")[0] for test in tests})
        lines = [f"mkdir -p {Path(f).parent}; echo 'def test_all(): pass' >{f}" for f in files]
        return "\n".join(lines)
    return "echo 'I thought about it.' >NOTES"


class Agents:
    """Policy and judge. An attempt goes by one plan; which one is the seed's of its first turn, so
    that one that is asked again says the same."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.gated = False
        """Whether the first command of an attempt waits to be let on."""
        self._plans: dict[str, dict[int, str]] = {}

    @asynccontextmanager
    async def up(self) -> AsyncIterator[str]:
        route = Route("/v1/chat/completions", self._answer, methods=["POST"])
        async with serving(Starlette(routes=[route])) as url:
            yield f"{url}/v1"

    async def _answer(self, request: Request) -> Response:
        body = await request.json()
        texts = [message["content"] for message in body["messages"]]
        if body["model"] == "judge":
            return judged(float(re.findall(r"worth (0\.\d+)", texts[-1])[-1]))
        [row] = [row for row in self.rows if any(row["problem_statement"] in t for t in texts)]
        turns = [m["content"] for m in body["messages"] if m["role"] == "assistant"]
        return said(self._turn(row, turns, body["seed"])[: body["n"]])

    def _turn(self, row: dict[str, Any], turns: list[str], seed: int) -> list[str]:
        """Two candidates, of which the second is the better one."""
        known = self._plans.setdefault(row["instance_id"], {})
        if turns:
            plan = plan_of(turns[0])
        else:
            plan = known.setdefault(seed, PLANS[row["instance_id"]][len(known) % 3])
        gate = GATE if self.gated else ""
        look = "command -v python3; python3 -m pytest -q -p no:cacheprovider; git status --short"
        command, worth = [
            (f"echo once >>/tmp/times; {gate}{doing(plan, row)}", 0.8),
            (f"wc -l </tmp/times; {look}", 0.8),
            ("submit", WORTH[plan]),
        ][len(turns)]
        return [
            "This is worth 0.05.\n```bash\necho nothing\n```",
            f"I {plan}. This is worth {worth}.\n```bash\n{command}\n```",
        ]


def plan_of(turn: str) -> str:
    found = re.match(r"I (\w+)\.", turn)
    assert found, turn
    return found[1]


# ---- the images


@pytest.fixture(scope="module")
def instances(engine: Podman, tmp_path_factory: pytest.TempPathFactory) -> list[Instance]:
    """Rows, and at the engine an image for each, by the name that SWE-bench gives it."""
    made = make(tmp_path_factory.mktemp("rows"))
    bases = {name: f"docker.io/library/pilotfish-{name}:latest" for name in ("system", "testbed")}
    folder = tmp_path_factory.mktemp("images")
    install(folder / "system" / "usr/lib/python3/dist-packages")
    make_testbed(folder / "testbed" / TESTBED.strip("/"))
    for name, image in bases.items():
        engine.derive(image, IMAGE, folder / name)
    for number, instance in enumerate(made):
        there = folder / instance.row["instance_id"] / "testbed"
        shutil.copytree(instance.repository, there, symlinks=True)
        base = bases["testbed" if number == 0 else "system"]
        engine.derive(f"docker.io/{task_of(instance.row).image}", base, there.parent)
    return made


def install(folder: Path) -> None:
    """Pytest and what it needs, which is Python alone, as it is installed here."""
    for name in PYTEST:
        for file in metadata.distribution(name).files or []:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                place = folder / file
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.locate(), place)


def make_testbed(binaries: Path) -> None:
    """A virtual environment of the image's Python: as conda's, it is found by PATH alone."""
    told = "import sys; print('python%d.%d' % sys.version_info[:2])"
    version = subprocess.check_output(["/usr/bin/python3", "-c", told], text=True).strip()
    install(binaries.parent / "lib" / version / "site-packages")
    (binaries.parent / "pyvenv.cfg").write_text("home = /usr/bin\n")
    binaries.mkdir()
    (binaries / "python3").symlink_to("/usr/bin/python3")


# ---- the service


class World:
    """An API and a worker, each a process of its own, over ``agents``; and the batch."""

    def __init__(self, folder: Path, engine: Podman, agents: Agents, redis_url: str) -> None:
        self.folder, self.engine, self.agents, self._redis = folder, engine, agents, redis_url
        self.out = folder / "out"
        self.parts: dict[str, Part] = {}
        self.url = ""

    @asynccontextmanager
    async def up(self) -> AsyncIterator[World]:
        ports = dict(zip(("api", "worker"), _free(2), strict=True))
        env = {k: v for k, v in os.environ.items() if not k.startswith("PILOTFISH_")}
        env["PYTHONPATH"] = f"{ROOT}:{ROOT / 'clients' / 'python'}"
        async with AsyncExitStack() as stack:
            agents = await stack.enter_async_context(self.agents.up())
            for name, port in ports.items():
                config = self.folder / f"{name}.yaml"
                config.write_text(yaml.safe_dump(self._settings(agents, worker=name == "worker")))
                words = [sys.executable, "-m", "service", "serve", "--port", str(port)]
                command = ["env", f"PILOTFISH_CONFIG={config}", *words]
                part = Part(name, command, self.folder, env)
                self.parts[name] = await stack.enter_async_context(part)
            self.url = f"http://127.0.0.1:{ports['api']}"
            for port in ports.values():
                await self._ready(f"http://127.0.0.1:{port}/health/readiness")
            yield self

    def _settings(self, agents: str, *, worker: bool) -> dict[str, Any]:
        """Those of the sandboxes are what the documentation names for SWE-bench."""
        policy = {"type": "openai", "url": agents, "model": "policy", "logprobs": False}
        judge = {"type": "yes_no", "url": agents, "model": "judge", "warm": False}
        containers = {
            "type": "container",
            "host": self.engine.url,
            "owner": OWNER,
            "pull": "never",
            "user": "root",
            "disk_in": "quota",
            "disk": None,
            "start_timeout": PATIENCE,
        }
        return {
            "policies": {"policy": policy},
            "critics": {"judge": judge},
            "sandboxes": {"containers": containers},
            "redis_url": self._redis,
            "worker": worker,
            "lease": 5.0,
            "reconcile": 1.0,
        }

    async def _ready(self, url: str) -> None:
        async def ready() -> bool:
            try:
                return (await http.get(url)).status_code == 200
            except httpx.TransportError:
                return False

        async with httpx.AsyncClient() as http:
            await self.until(ready)

    async def until(self, true: Callable[[], Awaitable[bool]]) -> None:
        """Or tell what service and worker said."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not await true():
                    await asyncio.sleep(0.1)
        except TimeoutError:
            pytest.fail(self.log())

    def containers(self) -> list[str]:
        label = f"label=pilotfish.sandbox={OWNER}"
        return self.engine("ps", "-aq", "--filter", label).split()

    async def batch(self) -> asyncio.subprocess.Process:
        rows = "".join(json.dumps(row) + "\n" for row in self.agents.rows)
        (self.folder / "test.jsonl").write_text(rows)
        strategy = {"rollout": {"command_timeout": PATIENCE}}
        (self.folder / "strategy.json").write_text(json.dumps(strategy))
        words = ["batch", "test.jsonl", "-s", "strategy.json", "-k", "2", "-n", "3", "-w", "3"]
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pilotfish.cli", *words, "--seed", "1", "-o", "out", "--json"),
            cwd=self.folder,
            env={"PILOTFISH_URL": self.url, "PATH": os.environ["PATH"]},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    def log(self) -> str:
        return "".join(path.read_text()[-4000:] for path in sorted(self.folder.glob("*.log")))


@pytest.fixture
async def world(
    tmp_path: Path, engine: Podman, instances: list[Instance], redis_url: str
) -> AsyncIterator[World]:
    agents = Agents([instance.row for instance in instances])
    async with World(tmp_path, engine, agents, redis_url).up() as world:
        yield world


# ---- what came of it


@dataclass(frozen=True)
class Ending:
    """Of an attempt: its plan, and what it was given for it."""

    plan: str
    reward: float
    submission: str
    seen: str
    """What its second command printed."""


def ending_of(document: Path) -> Ending:
    found = json.loads(document.read_text())
    assert found["info"]["exit_status"] == "Submitted", found["info"]
    turns = [m["content"] for m in found["messages"] if m["role"] == "assistant"]
    assert len(turns) == 3
    seen = [m for m in found["messages"] if "returncode" in m.get("extra", {})]
    return Ending(
        plan_of(turns[0]),
        found["info"]["pilotfish"]["reward"],
        found["info"]["submission"],
        seen[1]["content"],
    )


def passes(instance: Instance, patch: str, folder: Path) -> bool:
    """Whether a patch makes the hidden tests pass in the original repository, by pytest alone."""
    git(instance.repository, "clone", "-q", str(instance.repository), str(folder))
    for text in (patch, instance.row["test_patch"]):
        subprocess.run(["git", "apply", "-"], cwd=folder, input=text.encode(), check=True)
    tests = [json.loads(instance.row[name]) for name in ("FAIL_TO_PASS", "PASS_TO_PASS")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests[0], *tests[1]],
        cwd=folder,
        capture_output=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout.decode()
    return done.returncode == 0


async def check(world: World, instances: list[Instance], batch: asyncio.subprocess.Process) -> None:
    """All of a batch's folder, whatever happened on the way to it."""
    async with asyncio.timeout(2 * PATIENCE):
        out, err = await batch.communicate()
    assert batch.returncode == 0, (err.decode(), world.log())
    predictions = json.loads((world.out / "preds.json").read_text())
    assert sorted(predictions) == sorted(PLANS)
    for instance in instances:
        name = instance.row["instance_id"]
        documents = sorted((world.out / name).glob(f"attempt_*/{name}.traj.json"))
        endings = {ending.plan: ending for ending in map(ending_of, documents)}
        assert (len(documents), sorted(endings)) == (3, sorted(PLANS[name]))
        for plan, ending in endings.items():
            assert ending.reward == (1.0 if plan == "mend" else 0.0), (name, plan)
            times, python, *_ = re.findall(r"^(?:\d+|/\S+)$", ending.seen, re.MULTILINE)
            assert times == "1"  # no command ran twice
            testbed = name == "tiny__sums-1"
            assert python == (f"{TESTBED}/python3" if testbed else "/usr/bin/python3")
            assert re.search(r"\d (passed|failed)|no tests ran", ending.seen), ending.seen
        best = max(PLANS[name], key=lambda plan: WORTH[plan])
        patch = predictions[name]["model_patch"]
        assert patch == endings[best].submission
        assert "NOTES" in endings["stray"].submission
        if "cheat" in endings:
            assert endings["cheat"].submission == ""  # tests that are overwritten are no patch
        assert passes(instance, patch, world.folder / name) == (best == "mend")
    summary = json.loads((world.out / "summary.json").read_text())
    assert json.loads(out) == summary
    assert (summary["done"], summary["evaluated"], summary["submitted"]) == (3, 3, 3)
    assert (summary["resolved"]["of"], round(3 * summary["resolved"]["value"])) == (3, 2)
    assert round(9 * summary["random"]) == 2
    statuses = yaml.safe_load((world.out / "exit_statuses.yaml").read_text())
    assert statuses == {"instances_by_exit_status": {"Submitted": sorted(PLANS)}}

    async def empty() -> bool:
        return not await asyncio.to_thread(world.containers)

    await world.until(empty)


async def test_rows_are_solved_judged_and_handed_in(
    world: World, instances: list[Instance]
) -> None:
    await check(world, instances, await world.batch())


async def test_a_worker_that_is_killed_changes_nothing(
    world: World, instances: list[Instance]
) -> None:
    """While commands run in all nine containers."""
    world.agents.gated = True
    batch = await world.batch()

    def here() -> list[str]:
        names = world.containers()
        seen = 'for box; do podman exec "$box" test -e /tmp/here && echo "$box"; done; true'
        done = subprocess.run(
            ["sh", "-c", seen, "sh", *names],
            env=world.engine.environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.split()

    async def all_here() -> bool:
        return len(await asyncio.to_thread(here)) == 9

    await world.until(all_here)
    assert world.parts["worker"].signal(signal.SIGKILL)
    for name in await asyncio.to_thread(here):
        await asyncio.to_thread(world.engine, "exec", name, "touch", "/tmp/go")
    await check(world, instances, batch)
