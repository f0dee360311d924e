"""What every sandbox does, whatever it is made of."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Mapping

import pytest

from pilotfish import Evaluation, Task
from search.contracts import Gone, SandboxProvider
from search.errors import SandboxError, SandboxLost
from search.evaluation import evaluate
from service.sandboxes.bubblewrap import BubblewrapProvider
from service.sandboxes.swerex import SwerexSandbox
from tests.service.sandboxes.conftest import Provider


def forever() -> tuple[str, str]:
    """A command that does not end, and a pattern that finds it, and only it, in ``ps``."""
    seconds = str(random.randrange(10**8, 10**9))
    return f"sleep {seconds}", f"[s]leep {seconds}"


def of_run(run_id: str) -> Gone:
    async def gone(labels: Mapping[str, str]) -> bool:
        return labels["run"] == run_id

    return gone


async def run(sandbox: SwerexSandbox, command: str, timeout: float = 20.0) -> str:
    result = await sandbox.execute(command, action_id=uuid.uuid4().hex, timeout=timeout)
    assert result.exit_code == 0, result
    return result.output


async def test_is_a_provider(provider: SandboxProvider) -> None:
    assert provider


async def test_the_tasks_files_are_there(sandbox: SwerexSandbox) -> None:
    assert await run(sandbox, "python3 module/a.py") == "hello\n"


async def test_output_streams_come_together_in_order(sandbox: SwerexSandbox) -> None:
    assert await run(sandbox, "echo one; echo two >&2; echo three") == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("command", "code"), [("exit 3", 3), ("kill -9 $$", 137), ("no-such-program", 127)]
)
async def test_exit_codes(sandbox: SwerexSandbox, command: str, code: int) -> None:
    result = await sandbox.execute(command, action_id="a", timeout=20)
    assert result.exit_code == code
    assert not result.timed_out


async def test_commands_run_in_the_working_folder_or_where_told(sandbox: SwerexSandbox) -> None:
    assert (await run(sandbox, "pwd")).strip() == sandbox.workdir
    result = await sandbox.execute("pwd", action_id="a", timeout=20, cwd="/usr")
    assert result.output == "/usr\n"
    result = await sandbox.execute("pwd", action_id="b", timeout=20, cwd="module")
    assert result.output.strip() == f"{sandbox.workdir}/module"


async def test_a_folder_that_is_not_there_is_an_observation(sandbox: SwerexSandbox) -> None:
    result = await sandbox.execute("pwd", action_id="a", timeout=20, cwd="/nowhere")
    assert result.exit_code == 126
    assert "nowhere" in result.output


@pytest.mark.parametrize("command", ["echo a\0b", "echo " + 200_000 * "x", "echo \ud800"])
async def test_a_command_that_no_shell_takes_is_an_observation(
    sandbox: SwerexSandbox, command: str
) -> None:
    result = await sandbox.execute(command, action_id="a", timeout=20)
    assert result.exit_code == 126
    assert await run(sandbox, "echo on") == "on\n"


async def test_quotes_lines_and_letters_arrive_as_they_are(sandbox: SwerexSandbox) -> None:
    text = 'it\'s "quoted" $HOME `id` \\ \n\ttäglich 魚 🐟'
    assert await run(sandbox, f"cat <<'END'\n{text}\nEND") == text + "\n"
    await sandbox.write("notes/täglich.txt", text)
    assert await sandbox.read("notes/täglich.txt") == text
    assert await run(sandbox, "cat notes/*.txt") == text


async def test_bytes_that_are_no_text_are_shown(sandbox: SwerexSandbox) -> None:
    assert await run(sandbox, r"printf 'a\377b'") == r"a\xffb"


async def test_a_file_that_is_not_there(sandbox: SwerexSandbox) -> None:
    with pytest.raises(SandboxError, match="nothing"):
        await sandbox.read("nothing.txt")


async def test_a_file_where_a_folder_is(sandbox: SwerexSandbox) -> None:
    with pytest.raises(SandboxError, match="module"):
        await sandbox.write("module", "text")


async def test_the_same_action_runs_once(sandbox: SwerexSandbox) -> None:
    command = "echo x >> log; wc -l < log; exit 4"
    first = await sandbox.execute(command, action_id="once", timeout=20)
    again = await sandbox.execute(command, action_id="once", timeout=20)
    assert (first.output.strip(), first.exit_code) == ("1", 4)
    assert (again.output, again.exit_code) == (first.output, first.exit_code)
    assert await run(sandbox, "cat log") == "x\n"


async def test_an_id_that_comes_with_another_command_is_refused(sandbox: SwerexSandbox) -> None:
    """Its result is that of what the journal does not know: the sandbox is not as it says."""
    await sandbox.execute("echo x >> log", action_id="once", timeout=20)
    with pytest.raises(SandboxLost, match="another command"):
        await sandbox.execute("echo y >> log", action_id="once", timeout=20)
    with pytest.raises(SandboxLost, match="another command"):
        await sandbox.execute("echo x >> log", action_id="once", timeout=20, cwd="/tmp")
    assert await run(sandbox, "cat log") == "x\n"


async def test_a_second_delivery_waits_for_the_first(sandbox: SwerexSandbox) -> None:
    command = "echo x >> log; mkfifo door 2>/dev/null; cat door"
    deliveries = [
        asyncio.ensure_future(sandbox.execute(command, action_id="once", timeout=20))
        for _ in range(3)
    ]
    await run(sandbox, "until [ -p door ]; do sleep 0.01; done; echo opened > door")
    results = await asyncio.gather(*deliveries)
    assert {result.output for result in results} == {"opened\n"}
    assert await run(sandbox, "cat log") == "x\n"


async def test_actions_run_side_by_side(sandbox: SwerexSandbox) -> None:
    # Each of them needs the other one.
    first = run(sandbox, "mkfifo a b; echo one > a; cat b")
    second = run(sandbox, "until [ -p b ]; do sleep 0.01; done; cat a; echo two > b")
    assert await asyncio.gather(first, second) == ["two\n", "one\n"]


async def test_a_command_that_never_ends(sandbox: SwerexSandbox) -> None:
    sleep, pattern = forever()
    began = time.monotonic()
    command = f"echo begun; for i in 1 2 3 4 5 6 7 8; do setsid {sleep} & done; {sleep}"
    result = await sandbox.execute(command, action_id="a", timeout=1)
    assert time.monotonic() - began < 10
    assert result.timed_out
    assert result.exit_code is None
    assert result.output.startswith("begun\n")
    assert await run(sandbox, f"ps ax | grep -c '{pattern}' || true") == "0\n"
    again = await sandbox.execute(command, action_id="a", timeout=1)
    assert again.timed_out
    assert again.output == result.output


async def test_one_that_ignores_signals_is_stopped_too(sandbox: SwerexSandbox) -> None:
    command = "trap '' TERM INT HUP; while :; do sleep 0.1; done"
    result = await sandbox.execute(command, action_id="a", timeout=0.5)
    assert result.timed_out


async def test_100_megabytes_of_output(sandbox: SwerexSandbox) -> None:
    began = time.monotonic()
    result = await sandbox.execute(
        "echo first; head -c 100000000 /dev/zero | tr '\\0' x; echo; echo last",
        action_id="a",
        timeout=60,
    )
    assert time.monotonic() - began < 30
    assert result.exit_code == 0
    assert result.truncated
    assert len(result.output) < 101_000
    assert result.output.startswith("first\nxxx")
    assert result.output.endswith("xxx\nlast\n")
    assert "99,900,012 bytes left out" in result.output
    assert await run(sandbox, "echo on") == "on\n"


async def test_output_within_the_bound_is_whole(sandbox: SwerexSandbox) -> None:
    result = await sandbox.execute(
        "head -c 100000 /dev/zero | tr '\\0' x", action_id="a", timeout=9
    )
    assert result.output == 100_000 * "x"
    assert not result.truncated


async def test_background_processes_live_on_and_end_with_the_sandbox(
    provider: Provider, task: Task
) -> None:
    async with provider.start(task) as sandbox:
        began = time.monotonic()
        assert await run(sandbox, "(while :; do date > beat; sleep 0.05; done) & echo begun") == (
            "begun\n"
        )
        assert time.monotonic() - began < 5
        await run(sandbox, "rm -f beat; until [ -s beat ]; do sleep 0.02; done")
        # One that writes to the output of the command that started it does not die of it.
        await run(sandbox, "(while :; do echo noise; date > talk; sleep 0.05; done) & true")
        await run(sandbox, "rm -f talk; until [ -s talk ]; do sleep 0.02; done")
    with pytest.raises(SandboxLost):
        await sandbox.execute("true", action_id="after", timeout=5)
    with pytest.raises(SandboxLost):
        await provider.attach(sandbox.id)
    await sandbox.close()


async def test_a_cancelled_caller_stops_the_command(sandbox: SwerexSandbox) -> None:
    sleep, pattern = forever()
    command = f"mkfifo door; (setsid {sleep} &); {sleep} & echo ready > door; wait"
    caller = asyncio.ensure_future(sandbox.execute(command, action_id="a", timeout=60))
    await run(sandbox, "until [ -p door ]; do sleep 0.01; done; cat door")
    caller.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await run(sandbox, f"while ps ax | grep -q '{pattern}'; do sleep 0.02; done")
    assert time.monotonic() - began < 1.5
    [again] = await asyncio.gather(
        sandbox.execute(command, action_id="a", timeout=60), return_exceptions=True
    )
    if isinstance(again, SandboxLost):  # its end came before the word that it was cancelled
        assert "nobody waited" in str(again)
    else:
        assert again.exit_code is None
        assert "cancelled" in again.output


async def test_an_action_cancelled_before_it_came_never_runs(sandbox: SwerexSandbox) -> None:
    await sandbox.actions.cancel("late")
    result = await sandbox.execute("touch ran", action_id="late", timeout=5)
    assert result.exit_code is None
    assert await run(sandbox, "ls") == "module\n"


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", ""])
async def test_a_tasks_file_outside_its_folder(provider: Provider, task: Task, path: str) -> None:
    bad = task.model_copy(update={"files": {path: "text"}})
    with pytest.raises(SandboxError, match="working folder"):
        async with provider.start(bad):
            pass


async def test_set_up(provider: Provider, task: Task) -> None:
    good = task.model_copy(update={"setup": ["echo 1 > a", "cp a b"]})
    async with provider.start(good) as sandbox:
        assert await sandbox.read("b") == "1\n"
    bad = task.model_copy(update={"setup": ["true", "echo the reason; exit 7"]})
    with pytest.raises(SandboxError, match=r"exited with 7\nthe reason"):
        async with provider.start(bad):
            pass


async def test_evaluation(provider: Provider, task: Task) -> None:
    test = Evaluation(files={"test_a.py": "import sys; sys.exit(open('a').read() != 'good')"},
                      command="python3 test_a.py", timeout=20)  # fmt: skip
    judged = task.model_copy(update={"evaluation": test})
    async with provider.start(judged) as sandbox:
        await sandbox.write("a", "good")
        assert await evaluate(sandbox, judged) == (1.0, "")
    async with provider.start(judged) as sandbox:
        await sandbox.write("a", "bad")
        assert await evaluate(sandbox, judged) == (0.0, "")
        await sandbox.write("a", "good")
        assert await evaluate(sandbox, judged) == (0.0, "")
    slow = test.model_copy(update={"command": "sleep 60", "timeout": 0.5})
    judged = task.model_copy(update={"evaluation": slow})
    async with provider.start(judged) as sandbox:
        reward, told = await evaluate(sandbox, judged)
        assert (reward, "did not end in 0.5 s" in told) == (0.0, True)
    with pytest.raises(SandboxError, match="no evaluation"):
        await evaluate(sandbox, task)


async def test_attaching(provider: Provider, sandbox: SwerexSandbox) -> None:
    await run(sandbox, "echo kept > a")
    first = await sandbox.execute("date +%N", action_id="a", timeout=5)
    other = await provider.attach(sandbox.id)
    assert other.id == sandbox.id
    assert await other.read("a") == "kept\n"
    again = await other.execute("date +%N", action_id="a", timeout=5)
    assert again.output == first.output
    await other.close()
    with pytest.raises(SandboxLost):
        await sandbox.execute("true", action_id="b", timeout=5)


async def test_a_released_sandbox_goes_on_for_whoever_attaches(
    provider: Provider, task: Task
) -> None:
    if isinstance(provider, BubblewrapProvider):
        provider.settings.outlive_parent = True
    command = "echo begun >> log; until [ -e go ]; do sleep 0.02; done; echo ended"
    async with provider.start(task, labels={"run": "r1"}) as sandbox:
        running = asyncio.ensure_future(sandbox.execute(command, action_id="a", timeout=60))
        await run(sandbox, "until [ -e log ]; do sleep 0.02; done")
        await sandbox.release()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        with pytest.raises(SandboxLost):
            await sandbox.execute("true", action_id="b", timeout=5)
        await sandbox.close()
    other = await provider.attach(sandbox.id)
    await other.write("go", "")
    result = await other.execute(command, action_id="a", timeout=60)
    assert (result.output, result.exit_code) == ("ended\n", 0)
    assert await other.read("log") == "begun\n"
    await other.close()
    with pytest.raises(SandboxLost):
        await provider.attach(sandbox.id)


@pytest.mark.parametrize("sandbox_id", ["unknown", "../x", "/etc", ""])
async def test_attaching_to_what_is_not_there(provider: Provider, sandbox_id: str) -> None:
    with pytest.raises(SandboxLost):
        await provider.attach(sandbox_id)


async def test_reaping(provider: Provider, task: Task) -> None:
    async with (
        provider.start(task, labels={"run": "dead"}) as dead,
        provider.start(task, labels={"run": "live"}) as live,
    ):
        assert list(await provider.reap()) == []
        assert list(await provider.reap(of_run("dead"))) == [dead.id]
        with pytest.raises(SandboxLost):
            await dead.execute("true", action_id="a", timeout=5)
        assert await run(live, "echo on") == "on\n"


async def test_reaping_when_its_lifetime_is_over(provider: Provider, task: Task) -> None:
    provider.settings.lifetime = 3.0
    async with provider.start(task) as sandbox:
        while not (removed := await provider.reap()):
            await asyncio.sleep(0.1)
        assert list(removed) == [sandbox.id]
