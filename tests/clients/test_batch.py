"""``pilotfish batch`` as a user types it: a process of its own, over HTTP, with a folder that tells
what was done, whatever happened on the way."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from critic.importing.importer import import_trajectories
from critic.trajectory import read_trajectories
from pilotfish import AsyncPilotfish, Task, Usage
from pilotfish.batch.folder import BatchFolder, FolderError, folder_name
from pilotfish.batch.progress import Progress
from pilotfish.batch.results import Attempt, Result, result_of, summary_of, wilson
from pilotfish.errors import NotFound
from search.errors import PolicyError
from search.fakes import FakePolicy, FakeSandboxes
from tests.clients.conftest import TASK, TURNS
from tests.upstream import serving


def task(name, **changes):
    fields = {"statement": f"fix {name}", "submission": f"git diff {name}"} | changes
    return TASK.model_copy(update={"id": name} | fields)


def write_tasks(path, *names):
    path.write_text("".join(task(name).model_dump_json() + "\n" for name in names))


class Cli:
    """``pilotfish batch tasks.jsonl -o out`` with further words."""

    def __init__(self, url, folder):
        self.folder, self.out = folder, folder / "out"
        self.env = {"PILOTFISH_URL": url, "PILOTFISH_KEY": "k1", "PATH": "/usr/bin:/bin",
                    "COLUMNS": "150"}  # fmt: skip

    async def start(self, *words):
        words = ["-m", "pilotfish.cli", "batch", "tasks.jsonl", "-o", "out", *map(str, words)]
        return await asyncio.create_subprocess_exec(
            sys.executable, *words, cwd=self.folder, env=self.env,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def __call__(self, *words):
        process = await self.start(*words)
        out, err = await asyncio.wait_for(process.communicate(), 120)
        return process.returncode, out.decode(), err.decode()

    def json(self, name):
        return json.loads((self.out / name).read_text())


@pytest.fixture
def parts(service):
    parts = service[1].state.context.parts
    # one attempt of two does it, where the tests run; what is handed in is told by the command
    parts.sandboxes["fake"] = FakeSandboxes(lambda command: f"ran {command}\n")
    return parts


@pytest.fixture
def cli(service, parts, tmp_path):
    write_tasks(tmp_path / "tasks.jsonl", "a", "b", "c")
    return Cli(service[0], tmp_path)


@pytest.fixture
async def runs(service):
    """How many runs each task has in the service since the test began."""
    async with AsyncPilotfish(service[0], "k1") as client:
        before = {run.id async for run in client.list_runs()}

        async def count():
            made = [run async for run in client.list_runs() if run.id not in before]
            return Counter(run.task_id for run in made)

        yield count


def whole(folder):
    """A batch's files, but for what differs between two that did the same."""
    rows = {}
    for path in sorted(folder.glob("*/result.json")):
        result = Result.model_validate_json(path.read_bytes())
        attempts = [attempt.model_copy(update={"seconds": 0}) for attempt in result.attempts]
        rows[result.task_id] = result.model_copy(
            update={"run_id": None, "seconds": 0, "attempts": attempts}
        )
    lines = {path.parent.name: len(path.read_text().splitlines())
             for path in folder.glob("*/trajectories.jsonl")}  # fmt: skip
    return rows, lines, json.loads((folder / "preds.json").read_text())


# ---- what it leaves


async def test_a_batch_leaves_a_folder_of_results(cli):
    code, out, err = await cli("-k", 2, "-n", 2, "-w", 2, "--seed", 1)
    assert (code, err.count("\n")) == (0, 3), err
    assert "[3/3]  " in err
    assert "resolved: 100.0 % (43.9 to 100.0) of 3 evaluated" in out
    assert cli.json("preds.json") == {
        name: {"model_name_or_path": "p", "instance_id": name,
               "model_patch": f"ran git diff {name}\n"}
        for name in "abc"
    }  # fmt: skip
    statuses = yaml.safe_load((cli.out / "exit_statuses.yaml").read_text())
    assert statuses == {"instances_by_exit_status": {"Submitted": ["a", "b", "c"]}}
    summary = cli.json("summary.json")
    assert (summary["done"], summary["evaluated"], summary["random"]) == (3, 3, 1.0)
    assert summary["usage"]["completion_tokens"] > 0
    assert len(list(read_trajectories(cli.out / "a" / "trajectories.jsonl"))) == 2
    document = cli.json("a/attempt_1/a.traj.json")
    assert document["trajectory_format"] == "mini-swe-agent-1.1"
    assert document["info"]["submission"] == "ran git diff a\n"
    turn = next(m for m in document["messages"] if m["role"] == "assistant")
    assert turn["extra"]["pilotfish"]["q"] == 0.9
    assert len(turn["extra"]["pilotfish"]["candidates"]) == 2
    assert not list(cli.out.rglob(".writing-*"))


async def test_what_it_writes_is_read_by_the_critics_import(cli, tmp_path):
    await cli("-k", 2, "-n", 2)
    into = tmp_path / "mini.jsonl"
    files = sorted(cli.out.glob("*/attempt_*/*.traj.json"))
    import_trajectories(
        files, into, rejects=tmp_path / "no.jsonl", format="mini-swe-agent", keep_unrewarded=True
    )
    ours = {t.task_id: t for t in read_trajectories(cli.out / "b" / "trajectories.jsonl")}
    for trajectory in read_trajectories(into):
        if trajectory.task_id == "b":
            assert [m.text for m in trajectory.messages] == [m.text for m in ours["b"].messages]
            assert trajectory.exit_status == "Submitted"
            assert (trajectory.policy, trajectory.submission) == ("p", "ran git diff b\n")
    assert {t.task_id for t in read_trajectories(into)} == {"a", "b", "c"}


async def test_json_is_all_that_is_printed(cli):
    code, out, err = await cli("-k", 1, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == cli.json("summary.json")


async def test_tasks_are_chosen(cli, runs):
    write_tasks(cli.folder / "tasks.jsonl", "a1", "a2", "b1", "a3", "a4")
    code, *_ = await cli("-k", 1, "--filter", "^a", "--slice", "1:3")
    assert (code, sorted(cli.json("preds.json"))) == (0, ["a2", "a3"])
    code, *_ = await cli("-k", 1, "--filter", "^a")  # a wider choice goes on with the same folder
    assert (code, sorted(cli.json("preds.json"))) == (0, ["a1", "a2", "a3", "a4"])
    assert await runs() == Counter(["a1", "a2", "a3", "a4"])


async def test_the_order_is_the_seeds(cli):
    write_tasks(cli.folder / "tasks.jsonl", *(f"t{i}" for i in range(20)))
    await cli("-k", 1, "--shuffle", "--seed", 3, "--slice", ":4")
    first = sorted(cli.json("preds.json"))
    assert first != [f"t{i}" for i in range(4)]
    await cli("-k", 1, "--shuffle", "--seed", 3, "--slice", ":4", "--redo-existing")
    assert sorted(cli.json("preds.json")) == first


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--slice", "1"], 2, "--slice '1' is not FIRST:LAST"),
        (["--filter", "("], 2, "--filter '(' is no regular expression"),
        (["--filter", "zzz"], 2, "no task is left to run"),
        (["--split", "test"], 2, "has no row of split 'test'"),
        (["--model", "nobody"], 4, "there is no model 'nobody'"),
        (["-k", "0"], 2, "the strategy: lookahead.k"),
    ],
)
async def test_what_cannot_be_is_one_line_of_complaint(cli, words, code, told):
    found, _, err = await cli(*words)
    assert (found, told in err, err.count("\n")) == (code, True, 1), err


# ---- going on


async def test_what_is_done_is_not_run_again_unless_asked(cli, runs):
    await cli("-k", 1)
    await cli("-k", 1)
    assert await runs() == Counter("abc")
    code, *_ = await cli("-k", 1, "--redo-existing", "--filter", "b")
    assert (code, await runs()) == (0, Counter("abcb"))
    assert sorted(cli.json("preds.json")) == ["a", "b", "c"]


async def test_a_folder_made_otherwise_is_refused(cli, runs):
    await cli("-k", 1)
    code, _, err = await cli("-k", 2)
    assert (code, "was made with other settings" in err) == (2, True)
    write_tasks(cli.folder / "tasks.jsonl", "a", "b", "d")
    code, _, err = await cli("-k", 1)
    assert (code, "was made with other tasks" in err) == (2, True)
    code, *_ = await cli("-k", 2, "--redo-existing")
    assert (code, sorted(cli.json("preds.json"))) == (0, ["a", "b", "d"])
    assert await runs() == Counter("abcabd")


async def test_two_commands_do_not_share_a_folder(cli):
    folder = BatchFolder(cli.out)
    with folder.locked():
        code, _, err = await cli("-k", 1)
        assert (code, f"another command works in out: process {os.getpid()}" in err) == (2, True)
    assert (await cli("-k", 1))[0] == 0  # the lock's file is there still


class Choosy(FakePolicy):
    """Its failure is the infrastructure's in tasks that it is told."""

    def __init__(self, failing):
        super().__init__(TURNS, name="p")
        self.failing = failing

    async def sample(self, state, n, sampling, *, session=None):
        if any(f"fix {name}" in message.text for message in state for name in self.failing):
            raise PolicyError("the policy is not there")
        async for sample in super().sample(state, n, sampling):
            yield sample


async def test_the_infrastructures_failures_are_run_again_and_the_policys_are_not(cli, parts, runs):
    plan = {"max_replacements": 0, "lookahead": {"k": 1}, "rollout": {"patience": 0}}
    (cli.folder / "plan.json").write_text(json.dumps(plan))
    policy = parts.policies["p"] = Choosy({"b"})

    def respond(command):
        if command == "test":
            raise ValueError("1 failed")
        return ""

    parts.sandboxes["fake"] = FakeSandboxes(respond)
    code, out, _ = await cli("-s", "plan.json", "--tries", 2)
    assert (code, await runs()) == (1, Counter("abbc"))
    assert "2 done, 1 failed by the infrastructure" in out
    assert sorted(cli.json("preds.json")) == ["a", "c"]
    assert cli.json("summary.json")["resolved"]["of"] == 2  # what had no turn is not counted
    policy.failing = set()
    code, *_ = await cli("-s", "plan.json")
    assert (code, await runs()) == (0, Counter("abbbc"))
    assert cli.json("summary.json")["resolved"]["value"] == 0.0


class Held(FakePolicy):
    """Goes on when it is let."""

    def __init__(self):
        super().__init__(TURNS, name="p")
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    async def sample(self, state, n, sampling, *, session=None):
        self.reached.set()
        await self.go.wait()
        async for sample in super().sample(state, n, sampling):
            yield sample


async def test_ctrl_c_cancels_what_is_under_way_and_the_same_command_goes_on(cli, parts, service):
    held = parts.policies["p"] = Held()
    process = await cli.start("-k", 1, "-w", 2)
    await asyncio.wait_for(held.reached.wait(), 30)
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, "stopped" in err.decode()) == (130, True)
    async with AsyncPilotfish(service[0], "k1") as client:
        states = [json.loads(path.read_text()) for path in cli.out.glob("*/state.json")]
        assert len(states) == 2
        for state in states:
            run = await asyncio.wait_for(client.wait(state["run_id"]), 30)
            assert run.status == "cancelled"
    held.go.set()
    assert (await cli("-k", 1))[0] == 0
    assert sorted(cli.json("preds.json")) == ["a", "b", "c"]


async def test_a_detached_batch_finds_its_runs_again(cli, parts, runs):
    held = parts.policies["p"] = Held()
    process = await cli.start("-k", 1, "-w", 3, "--detach")
    await asyncio.wait_for(held.reached.wait(), 30)
    process.send_signal(signal.SIGINT)
    await asyncio.wait_for(process.communicate(), 30)
    held.go.set()
    assert process.returncode == 130
    assert (await cli("-k", 1))[0] == 0
    assert await runs() == Counter("abc")


async def test_killed_at_any_point_it_ends_with_the_same_and_doubles_nothing(
    cli, parts, runs, tmp_path
):
    names = [f"t{i}" for i in range(12)]
    write_tasks(tmp_path / "tasks.jsonl", *names)
    other = Cli(cli.env["PILOTFISH_URL"], tmp_path)
    other.out = tmp_path / "undisturbed"
    words = ("-k", 2, "-n", 2, "-w", 3, "--seed", 1)
    assert (await other(*words, "-o", "undisturbed"))[0] == 0
    parts.policies["p"] = FakePolicy(TURNS, name="p", delay=0.05)
    rng, kills, code = random.Random(4), 0, None
    while code is None:
        process = await cli.start(*words)
        try:
            # long enough to have begun, and to be anywhere in it
            limit = 1.2 + 1.2 * rng.random() if kills < 5 else 120
            await asyncio.wait_for(process.communicate(), limit)
            code = process.returncode
        except TimeoutError:
            process.kill()
            await process.wait()
            kills += 1
            for path in cli.out.rglob("*.json"):  # whole at any moment
                json.loads(path.read_text())
    assert (code, kills > 1) == (0, True)
    assert whole(cli.out) == whole(other.out)
    assert await runs() == Counter(names * 2)
    assert not list(cli.out.rglob(".writing-*"))


async def test_killed_before_it_heard_of_its_run_it_finds_that_again(cli, runs):
    arrived, holding = asyncio.Event(), True

    async def forward(request):
        async with httpx.AsyncClient(base_url=service_url, timeout=60) as http:
            answer = await http.request(
                request.method, request.url.path, params=request.query_params,
                content=await request.body(), headers=list(request.headers.items())[1:],
            )  # fmt: skip
        if holding and request.method == "POST":
            arrived.set()
            await asyncio.Event().wait()
        return Response(
            answer.content, answer.status_code, media_type=answer.headers["content-type"]
        )

    service_url = cli.env["PILOTFISH_URL"]
    app = Starlette(routes=[Route("/{p:path}", forward, methods=["GET", "POST"])])
    async with serving(app) as url:
        cli.env["PILOTFISH_URL"] = url
        process = await cli.start("-k", 1, "-w", 1)
        await asyncio.wait_for(arrived.wait(), 30)
        process.kill()
        await process.wait()
        holding = False
        assert await runs() == Counter("a")
        assert json.loads((cli.out / "a" / "state.json").read_text())["run_id"] is None
        assert (await cli("-k", 1))[0] == 0
    assert await runs() == Counter("abc")


async def test_a_run_that_the_service_has_forgotten_is_made_again(cli, runs):
    await cli("-k", 1)
    folder = BatchFolder(cli.out)
    (cli.out / "a" / "result.json").unlink()
    folder.put_state(folder.state("a").model_copy(update={"run_id": "gone"}))
    assert (await cli("-k", 1))[0] == 0
    assert await runs() == Counter("aabc")


async def test_a_service_that_is_away_or_busy_is_waited_for(cli):
    asked = []
    made = {"id": "r1", "status": "succeeded", "task_id": "a", "policy": "p", "critic": None,
            "created_at": 1, "ended_at": 3, "strategy": {}}  # fmt: skip

    async def answer(request):
        asked.append((request.method, request.headers.get("idempotency-key"), request.url.query))
        if len(asked) < 8:
            busy = len(asked) % 2
            return JSONResponse({}, 429 if busy else 503, headers={"Retry-After": "0"})
        return JSONResponse(made, 202)

    write_tasks(cli.folder / "tasks.jsonl", "a")
    app = Starlette(routes=[Route("/{p:path}", answer, methods=["GET", "POST"])])
    async with serving(app) as url:
        cli.env["PILOTFISH_URL"] = url
        code, _, err = await cli("-k", 1, "--patience", 30)
    # what answers here has no trajectories: it is no service
    assert (code, "waiting for the service" in err) == (3, True)
    keys = {key for method, key, _ in asked if method == "POST"}
    assert (len(keys), None in keys) == (1, False)
    assert ("GET", None, "trajectories=false") in asked


async def test_a_service_that_stays_away_ends_it(cli):
    cli.env["PILOTFISH_URL"] = "http://127.0.0.1:9"
    code, _, err = await cli("-k", 1, "--patience", 0)
    assert (code, "Is the service up?" in err) == (3, True)


async def test_a_task_that_the_service_refuses_is_no_end_of_the_others(cli, service):
    megabytes = service[1].state.context.settings.max_body_mb
    big = task("big", statement="x" * int(megabytes * 2**20 + 1))
    with (cli.folder / "tasks.jsonl").open("a") as file:
        file.write(big.model_dump_json() + "\n")
    code, out, _ = await cli("-k", 1)
    assert (code, "3 done, 0 failed by the infrastructure, 1 refused" in out) == (1, True)


# ---- the client


async def test_a_key_makes_one_run(service):
    async with AsyncPilotfish(service[0], "k1") as client:
        first, second = [await client.create_run(TASK, idempotency_key="x1") for _ in range(2)]
        assert first.id == second.id
        ended = await client.wait(first.id)
        bare = await client.get_run(first.id, trajectories=False)
        assert (bare.status, bare.trajectories, bare.usage) == ("succeeded", [], ended.usage)
        streamed = [t async for t in client.stream_trajectories(first.id)]
        assert streamed == await client.trajectories(first.id)
        with pytest.raises(NotFound):
            await anext(client.stream_trajectories("none"))


# ---- on the screen


def test_a_terminal_is_shown_a_table():
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    progress = Progress(screen, total=10, through=3)
    progress.began("a[b]")
    progress.began("c")
    progress.ended(result(1.0), again=False)
    progress.waiting(NotFound("nobody is there", status=404))
    with progress.shown():
        pass
    shown = screen.file.getvalue()
    assert "[4/10] tasks" in shown
    assert "a[b]" in shown
    assert "100.0 % (20.7 to 100.0)" in shown
    assert "waiting for the service: nobody is there" in shown


# ---- records and numbers


def attempt(slot, status="Submitted", reward=None, steps=1):
    return Attempt(number=0, slot=slot, exit_status=status, reward=reward, last_q=None,
                   steps=steps, usage=Usage(), seconds=1)  # fmt: skip


RUN = {"id": "r", "status": "succeeded", "task_id": "t", "policy": "p", "critic": None,
       "created_at": 1.0, "strategy": {}}  # fmt: skip


@pytest.mark.parametrize(
    ("status", "selected", "error", "statuses", "outcome"),
    [
        ("succeeded", 0, None, ["Submitted"], "done"),
        ("succeeded", None, None, ["Submitted"], "done"),
        ("failed", None, None, ["TokenLimitExceeded"], "done"),
        ("failed", None, None, ["PolicyError", "SandboxLost"], "infrastructure"),
        ("failed", None, None, ["PolicyError", "FormatError"], "done"),
        ("failed", None, "it broke", ["FormatError"], "infrastructure"),
        ("failed", None, "it broke", [], "infrastructure"),
        ("cancelled", None, None, ["Submitted", "Cancelled"], "infrastructure"),
    ],
)
def test_whose_failure_it_was(status, selected, error, statuses, outcome):
    from pilotfish.api import RunView

    run = RunView(**RUN | {"status": status, "selected": selected, "error": error})
    found = result_of(run, [attempt(i, s) for i, s in enumerate(statuses)], None)
    assert found.outcome == outcome


def result(*rewards, selected=0, outcome="done"):
    attempts = [attempt(i, reward=reward) for i, reward in enumerate(rewards)]
    return Result(task_id="t", outcome=outcome, attempts=attempts, selected=selected)


def test_numbers_are_of_tasks():
    summary = summary_of([
        result(1.0, 0.0), result(0.0, 1.0), result(0.0, 0.0), result(1.0, 1.0, selected=None),
        result(None, None), result(None, selected=None, outcome="infrastructure"),
    ])  # fmt: skip
    assert (summary.tasks, summary.done, summary.evaluated) == (6, 5, 4)
    assert (summary.resolved.value, summary.oracle.value) == (0.25, 0.75)
    assert summary.random == (0.5 + 0.5 + 0 + 1) / 4
    assert summary_of([]).resolved is None


def test_an_attempt_that_was_replaced_does_not_count():
    lost = attempt(0, "SandboxLost", None)
    found = Result(task_id="t", outcome="done", attempts=[lost, attempt(0, reward=1.0)], selected=1)
    assert (found.rewards, found.reward) == ([1.0], 1.0)


@given(st.integers(0, 60), st.integers(1, 60))
def test_wilsons_interval_holds_the_share_and_the_ends(successes, more):
    total = successes + more
    share = wilson(successes, total)
    assert 0 <= share.low <= share.value <= share.high <= 1
    wider = wilson(successes, total, z=3.0)
    assert wider.low <= share.low
    assert wider.high >= share.high


@given(st.text(min_size=1, max_size=200).filter(lambda text: text.isprintable()))
def test_any_id_is_a_folder(task_id):
    name = folder_name(task_id)
    assert Path("out", name).parent == Path("out")
    assert name not in (".", "..")
    assert len(name.encode()) < 200
    assert not name.startswith(".")


def test_two_ids_are_two_folders():
    long = ["é" * 150 + end for end in "ab"]
    names = [folder_name(name) for name in ["a b", "a%20b", "a/b", "preds.json", *long]]
    assert len(set(names)) == len(names)
    assert "preds.json" not in names


def test_a_file_that_was_spoilt_is_told(tmp_path):
    folder = BatchFolder(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_text("{")
    with pytest.raises(FolderError, match=r"result.json cannot be read"):
        folder.result("a")
    assert Task.model_validate_json(task("a").model_dump_json()).id == "a"
