"""The commands in docs/critic.md and docs/batch.md, as they stand there, one after the other; the
examples of docs/endpoint.md and docs/clients.md."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from critic.checkpoint import read_card
from critic.trajectory import read_trajectories, write_trajectories
from pilotfish import AsyncPilotfish, Lookahead, Selection, Strategy
from search.fakes import FakeCritic, FakePolicy
from tests.clients.conftest import TASK, TURNS
from tests.swebench_rows import make
from tests.tiny import causal_lm, trajectory

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "critic.md").read_text().replace("\\\n", " ")
BATCH = [
    line for line in (DOCS / "batch.md").read_text().splitlines() if line.startswith("pilotfish")
]
COMMANDS = [line for line in TEXT.splitlines() if line.startswith("pilotfish-critic ")]
FENCE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXAMPLES = [
    example
    for name in ("endpoint.md", "clients.md")
    for example in re.findall(FENCE, (DOCS / name).read_text())
]
SERVICE = "http://127.0.0.1:8700"


def recorded(tasks, name):
    return [
        trajectory(f"{name}{i}", [f"```bash\n{word}\n```", f"submit {word}"], reward=reward)
        for i in range(tasks)
        for word, reward in (("ls", 1.0), ("rm", 0.0))
    ]


def run(words):
    command = [sys.executable, "-m", "critic", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (words, done.stderr)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with what the documents take as given."""
    monkeypatch.chdir(tmp_path)
    causal_lm(tmp_path / "POLICY_FOLDER")
    (tmp_path / "data").mkdir()
    rows = recorded(40, "t")
    write_trajectories(tmp_path / "data" / "mine.jsonl", rows)
    (tmp_path / "report.json").write_text(json.dumps({t.id: t.reward for t in rows}))
    write_trajectories(tmp_path / "other.jsonl", recorded(10, "o"))
    return tmp_path


@pytest.mark.slow
async def test_every_documented_command_runs(here, service, monkeypatch):
    url, app = service
    app.state.context.parts.critics["judge"] = FakeCritic(lambda s, a: 0.5, name="judge")
    monkeypatch.setenv("PILOTFISH_KEY", "k1")
    async with AsyncPilotfish(url, "k1") as client:
        await client.run(TASK, Strategy(lookahead=Lookahead(k=2), selection=Selection(n=2)))

    for line in COMMANDS:
        words = shlex.split(line.replace(SERVICE, url))[1:]
        await asyncio.to_thread(run, words)
        if words[0] == "train":
            shutil.copytree(here / "critic", here / "other")
    assert len(COMMANDS) == 10
    assert len(list(read_trajectories(here / "all.jsonl"))) == 80
    assert {t.task_id for t in read_trajectories(here / "served.jsonl")} >= {TASK.id}
    assert "data:image/png" in (here / "report.html").read_text()
    assert read_card(here / "critic").calibration is not None
    assert len(list((here / "ablation").glob("*/result.json"))) == 3 * (1 + 4 + 2 + 2)


async def test_every_command_for_many_tasks_runs(service, tmp_path):
    url, app = service
    app.state.context.parts.policies["p"] = FakePolicy(TURNS, name="p")
    (tmp_path / "tasks.jsonl").write_text(TASK.model_dump_json() + "\n")
    (tmp_path / "data" / "verified").mkdir(parents=True)
    rows = [instance.row for instance in make(tmp_path / "repositories")]
    others = [row | {"repo": "django/django", "instance_id": "django__1"} for row in rows[:1]]
    file = tmp_path / "data" / "verified" / "test-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist([*rows, *others]), file)
    bin_folder = Path(sys.executable).parent
    env = {
        "PILOTFISH_URL": url,
        "PILOTFISH_KEY": "k1",
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
    }
    for line in BATCH:
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", line, cwd=tmp_path, env=env, stderr=asyncio.subprocess.PIPE
        )
        _, err = await process.communicate()
        assert process.returncode == 0, (line, err.decode())
    assert len(BATCH) == 3
    assert sorted(json.loads((tmp_path / "out-swe" / "preds.json").read_text())) == sorted(
        row["instance_id"] for row in rows
    )
    assert len(list(read_trajectories(tmp_path / "more.jsonl"))) == 10


@pytest.mark.parametrize("example", EXAMPLES)
async def test_every_example_of_the_endpoint_and_of_clients_runs(service, example):
    url, app = service
    app.state.context.parts.policies["bugfix-policy"] = FakePolicy(TURNS, name="bugfix-policy")
    code = example.replace(SERVICE, url).replace('api_key="none"', 'api_key="k1"')
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PILOTFISH_KEY": "k1"},
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert out.strip()
    assert len(EXAMPLES) == 5
