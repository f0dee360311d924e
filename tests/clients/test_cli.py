"""The command line as a user types it: a process of its own, over HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from pilotfish.cli import main
from search.fakes import FakePolicy, turn_by_turn
from tests.clients.conftest import TASK, TURNS
from tests.upstream import serving

METHODS = ["GET", "POST"]


class Cli:
    """``pilotfish`` with the service's address in its environment."""

    def __init__(self, url, folder):
        self.folder = folder
        self.env = {"PILOTFISH_URL": url, "PILOTFISH_KEY": "k1", "PATH": "/usr/bin:/bin",
                    "COLUMNS": "150"}  # fmt: skip

    async def start(self, *words, **env):
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pilotfish.cli", *map(str, words),
            cwd=self.folder, env=self.env | env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def __call__(self, *words, text=None, **env):
        process = await self.start(*words, **env)
        out, err = await process.communicate(None if text is None else text.encode())
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
def cli(service, tmp_path):
    (tmp_path / "task.json").write_text(TASK.model_dump_json())
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "null.json").write_text('{"lookahead": null}')
    (tmp_path / "number.json").write_text('{"messages": 5}')
    (tmp_path / "one.json").write_text('{"messages": [{"role": "user"}], "candidates": 5}')
    (tmp_path / "half.json").write_text('{"messages": [{"role": "user", "content": "\\ud800"}]}')
    (tmp_path / "deep.json").write_text('{"messages": ' + "[" * 100_000)
    return Cli(service[0], tmp_path)


async def test_a_task_is_run_and_its_trajectories_written(cli):
    code, out, _ = await cli("run", "task.json", "-k", 2, "-n", 2, "-o", "t.jsonl", "--seed", 1)
    assert code == 0
    assert "selected: 0 (argmax)" in out
    assert "Submitted" in out
    lines = (cli.folder / "t.jsonl").read_text().splitlines()
    assert len(lines) == 2
    code, out, _ = await cli("select", "t.jsonl", "--json")
    assert (code, json.loads(out)["ranking"]) == (0, [0, 1])
    code, out, _ = await cli("select", "t.jsonl", "--abstain-below", "0.99")
    assert code == 1
    assert "chosen: none (abstained)" in out


async def test_json_is_all_that_is_printed(cli):
    code, out, err = await cli("run", "-", "--json", "-k", 1, text=TASK.model_dump_json())
    run = json.loads(out)
    assert (code, run["status"], err) == (0, "succeeded", "")
    code, out, _ = await cli("runs", "show", run["id"], "--json")
    assert json.loads(out) == run
    code, out, _ = await cli("runs", "list", "--json", "--limit", 1)
    assert [r["id"] for r in json.loads(out)] == [run["id"]]
    code, out, _ = await cli("runs", "watch", run["id"], "--json")
    kinds = [json.loads(line)["kind"] for line in out.splitlines()]
    assert kinds[-1] == "run_ended"
    code, out, _ = await cli("runs", "download", run["id"])
    assert json.loads(out)["exit_status"] == "Submitted"
    assert (await cli("runs", "download", run["id"], "--json"))[1] == out
    code, said, _ = await cli("runs", "download", run["id"], "--json", "-o", "t.jsonl")
    assert (code, json.loads(said)) == (0, {"file": "t.jsonl", "count": 1})
    assert (cli.folder / "t.jsonl").read_text() == out


async def test_a_strategy_file_is_changed_by_options(cli):
    plan = {"lookahead": {"k": 1}, "selection": {"n": 3}, "rollout": {"max_steps": 7},
            "budget": {"tokens": 800}}  # fmt: skip
    (cli.folder / "plan.json").write_text(json.dumps(plan))
    _, out, _ = await cli(
        *("run", "task.json", "-s", "plan.json", "-n", 1, "--tokens", 900, "--max-tokens", 50),
        *("--json", "--no-wait"),
    )
    strategy = json.loads(out)["strategy"]
    assert strategy["lookahead"]["k"] == 1
    assert strategy["selection"]["n"] == 1
    assert strategy["rollout"]["max_steps"] == 7
    assert strategy["budget"]["tokens"] == 900
    assert strategy["lookahead"]["sampling"]["max_tokens"] == 50


async def test_a_state_is_scored(cli):
    state = {"messages": [{"role": "user", "content": "hi"}],
             "candidates": [{"role": "assistant", "content": "pwd"}]}  # fmt: skip
    code, out, _ = await cli("score", "-", text=json.dumps(state))
    assert (code, out) == (0, "candidate 0: 0.9000\n")


async def test_lists_are_tables(cli):
    await cli("run", "task.json", "-k", 1)
    code, out, _ = await cli("runs", "list")
    assert code == 0
    assert "succeeded" in out


async def asked_in(service, session, *, times=1):
    """An outside agent's calls."""
    history = [{"role": "user", "content": "fix it"}]
    async with httpx.AsyncClient(headers={"Authorization": "Bearer k1"}) as client:
        for _ in range(times):
            path = f"{service[0]}/sessions/{session}/v1/chat/completions"
            answer = await client.post(path, json={"model": "p", "messages": history})
            said = answer.json()["choices"][0]["message"]
            history = [*history, said, {"role": "user", "content": "done"}]


async def test_sessions_are_listed_shown_exported_and_deleted(cli, service):
    await asked_in(service, "one", times=2)
    await asked_in(service, "an.other")
    code, out, _ = await cli("sessions", "list")
    assert code == 0
    assert "fix it" in out
    assert "one" in out
    assert "0.9" in out
    code, out, _ = await cli("sessions", "list", "--limit", 1, "--json")
    assert [found["id"] for found in json.loads(out)] == ["an.other"]
    code, out, _ = await cli("sessions", "show", "one")
    assert code == 0
    assert out.count("argmax") + out.count("unanimous") == 2
    code, out, _ = await cli("sessions", "show", "one", "--json")
    assert len(json.loads(out)["steps"]) == 2
    code, _, _ = await cli("sessions", "export", "one", "an.other", "-o", "s.jsonl")
    assert code == 0
    code, out, _ = await cli("select", "s.jsonl", "--json")
    assert code == 0
    assert len(json.loads(out)["ranking"]) == 2
    assert (await cli("sessions", "delete", "an.other"))[0] == 0
    code, _, err = await cli("sessions", "show", "an.other")
    assert code == 4
    assert "there is no session" in err


async def test_ctrl_c_cancels_the_run(cli, service):
    asked = asyncio.Event()

    class Stuck(FakePolicy):
        async def sample(self, state, n, sampling, *, session=None):
            asked.set()
            await asyncio.Event().wait()
            yield

    service[1].state.context.parts.policies["p"] = Stuck(TURNS, name="p")
    process = await cli.start("run", "task.json", "-k", 1)
    await asyncio.wait_for(asked.wait(), 20)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert "stopped" in err.decode()
    _, out, _ = await cli("runs", "list", "--json", "--limit", 1)
    run_id = json.loads(out)[0]["id"]
    _, out, _ = await cli("runs", "watch", run_id)
    assert "cancelled" in out


async def test_a_run_is_paused_resumed_cancelled_and_tried_again(cli, service):
    asked = asyncio.Event()

    class Stuck(FakePolicy):
        async def sample(self, state, n, sampling, *, session=None):
            asked.set()
            await asyncio.Event().wait()
            yield

    parts = service[1].state.context.parts
    parts.policies["p"] = Stuck(TURNS, name="p")
    _, out, _ = await cli("run", "task.json", "-k", 1, "--no-wait", "--json")
    run_id = json.loads(out)["id"]
    await asyncio.wait_for(asked.wait(), 20)

    async def becomes(word, status):
        code, out, err = await cli("runs", word, run_id, "--json")
        assert code == 0, err
        async with asyncio.timeout(30):
            while json.loads(out)["status"] != status:
                _, out, _ = await cli("runs", "show", run_id, "--json")

    await becomes("pause", "paused")
    await becomes("resume", "running")
    await becomes("cancel", "cancelled")
    parts.policies["p"] = FakePolicy(TURNS, name="p")
    await becomes("retry", "succeeded")
    code, _, err = await cli("runs", "pause", run_id)
    assert (code, "no use to pause it" in err) == (4, True)


MADE = {"id": "r1", "status": "queued", "task_id": "t1", "policy": "p", "critic": None,
        "created_at": 0, "strategy": {}}  # fmt: skip


async def test_a_run_that_is_lost_sight_of_is_named(cli):
    async def answer(request):
        made = request.method == "POST"
        return JSONResponse(MADE if made else {}, 202 if made else 500)

    async with serving(Starlette(routes=[Route("/{p:path}", answer, methods=METHODS)])) as url:
        code, _, err = await cli("run", "task.json", PILOTFISH_URL=url)
    assert (code, "`pilotfish runs watch r1`" in err, err.count("\n")) == (4, True, 1)


async def test_ctrl_c_is_that_also_where_cancelling_fails(cli):
    asked = asyncio.Event()

    async def answer(request):
        if request.url.path.endswith("/cancel"):
            return JSONResponse({}, 500)
        if request.method == "GET":
            asked.set()
            await asyncio.Event().wait()
        return JSONResponse(MADE, 202)

    async with serving(Starlette(routes=[Route("/{p:path}", answer, methods=METHODS)])) as url:
        process = await cli.start("run", "task.json", PILOTFISH_URL=url)
        await asyncio.wait_for(asked.wait(), 20)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert (process.returncode, "stopped" in err.decode()) == (130, True)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run", "nofile.json"], 2, "cannot read nofile.json"),
        (["run", "task.json", "-k", "0"], 2, "the strategy: lookahead.k"),
        (["run", "task.json", "--bogus"], 2, "No such option"),
        (["run", "task.json", "--tokens", "9"], 2, "the strategy: budget.tokens needs lookahead"),
        (["run", "task.json", "--model", "nobody"], 4, "there is no model 'nobody'"),
        (["runs", "show", "nope"], 4, "there is no run 'nope'"),
        (["score", "task.json"], 2, 'neither "messages" nor "steps"'),
        (["select", "task.json"], 2, "task_id: Field required"),
        (["run", "[/b].json"], 2, "cannot read [/b].json"),
        (["run", "task.json", "--model", "[/b]"], 4, "there is no model '[/b]'"),
        (["run", "bytes.json"], 2, "cannot read bytes.json: it is not UTF-8 text"),
        (["run", "task.json", "-s", "null.json", "-k", 2], 2, "the strategy: lookahead"),
        (["run", "task.json", "--json", "-o", "no/such/folder"], 2, "cannot write no/such/folder"),
        (["score", "number.json"], 2, "messages: Input should be a valid list"),
        (["score", "one.json"], 2, "candidates: Input should be a valid list"),
        (["score", "half.json"], 2, "half.json is not JSON"),
        (["run", "half.json"], 2, "half.json is not JSON"),
        (["select", "deep.json"], 2, "deep.json is not JSON: recursion limit"),
        (["--key", "schlüssel", "runs", "list"], 2, "give it in printable ASCII"),
        (["--key", "k1\n", "runs", "list"], 2, "give it in printable ASCII"),
        (["--timeout", "-1", "runs", "list"], 2, "--timeout"),
        (["--url", "http://[::", "runs", "list"], 3, "Set PILOTFISH_URL"),
        (["runs", "show", "abc\n"], 4, "there is no run 'abc\\n'"),
        (["runs", "show", ".."], 4, "there is no run '..'"),
        (["runs", "cancel", "é?#"], 4, "there is no run 'é?#'"),
        (["runs", "download", "\udcff"], 4, "there is no run '\\\\udcff'"),
        (["runs", "show", ""], 4, "the run's id is empty"),
    ],
)
async def test_an_error_is_one_line_and_has_its_exit_code(
    cli, monkeypatch, capsys, words, code, message
):
    # in this process: a new one for each would import all anew
    for name, value in cli.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(cli.folder)
    monkeypatch.setattr(sys, "argv", ["pilotfish", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        await asyncio.to_thread(main)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (code, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


async def test_no_run_is_made_where_its_file_cannot_be_written(cli):
    code, _, err = await cli("run", "task.json", "--model", "nobody", "-o", "no/such/folder")
    assert (code, "cannot write no/such/folder" in err) == (2, True)


async def test_a_run_that_is_not_made_leaves_the_file_as_it_was(cli):
    (cli.folder / "old.jsonl").write_text("old\n")
    for name in ("old.jsonl", "new.jsonl"):
        assert (await cli("run", "task.json", "--model", "nobody", "-o", name))[0] == 4
    assert (cli.folder / "old.jsonl").read_text() == "old\n"
    assert not (cli.folder / "new.jsonl").exists()


async def test_a_run_whose_file_cannot_be_written_in_the_end_can_be_downloaded(cli):
    code, _, err = await cli("run", "task.json", "-k", 1, "-o", "/dev/full")
    assert code == 2
    run_id = re.search("`pilotfish runs download ([^ ]+) -o FILE`", err)[1]
    assert (await cli("runs", "download", run_id))[0] == 0


async def test_input_that_is_not_text_is_one_line_of_complaint(cli):
    process = await cli.start("score", "-")
    _, err = await process.communicate(b"\xff\xfe")
    assert (process.returncode, err) == (2, b"error: cannot read -: it is not UTF-8 text\n")


async def test_what_runs_say_is_shown_as_it_is(cli, service):
    service[1].state.context.parts.policies["p"] = FakePolicy(turn_by_turn(["[/b]"]), name="[/p]")
    (cli.folder / "odd.json").write_text(TASK.model_copy(update={"id": "[bold]"}).model_dump_json())
    _, out, err = await cli("run", "odd.json", "-k", 1)
    assert ("task [bold]" in out, "Traceback" in err) == (True, False)
    _, out, err = await cli("runs", "list", "--limit", 1)
    assert ("[/p]" in out, err) == (True, "")


async def test_no_service_and_no_key_are_told_apart(cli):
    code, _, err = await cli("runs", "list", PILOTFISH_URL="http://127.0.0.1:9")
    assert (code, "Is the service up?" in err) == (3, True)
    code, _, err = await cli("runs", "list", PILOTFISH_KEY="wrong")
    assert (code, "send a known key" in err) == (4, True)
