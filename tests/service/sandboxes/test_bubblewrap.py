"""How bubblewrap sandboxes start, are found again, and end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import uvloop
from swerex.exceptions import CommandTimeoutError, NonZeroExitCodeError
from swerex.runtime.abstract import Command, ReadFileRequest, WriteFileRequest
from swerex.runtime.remote import RemoteRuntime

from pilotfish import Task
from search.errors import SandboxError, SandboxLost
from service.local.process import ProcessId
from service.sandboxes.bubblewrap import (
    BubblewrapProvider,
    BubblewrapSettings,
    read_to_end,
)
from service.sandboxes.state import StateFolder
from tests.service.sandboxes.test_conformance import of_run

ROOT = Path(__file__).parents[3]


async def test_only_the_hosts_image(bubblewrap: BubblewrapProvider, task: Task) -> None:
    with pytest.raises(SandboxError, match=r"no image 'python:3.12'.*only 'host'"):
        async with bubblewrap.start(task.model_copy(update={"image": "python:3.12"})):
            pass


@pytest.mark.parametrize("workdir", ["/", "relative", "/usr/src", "/proc/1", "/a/../usr", "/etc"])
async def test_working_folders_that_cannot_be(
    bubblewrap: BubblewrapProvider, task: Task, workdir: str
) -> None:
    with pytest.raises(SandboxError, match="working folder"):
        async with bubblewrap.start(task.model_copy(update={"workdir": workdir})):
            pass


@pytest.mark.parametrize("workdir", ["/testbed", "/home/me/project", "/tmp/work"])
async def test_working_folders(bubblewrap: BubblewrapProvider, task: Task, workdir: str) -> None:
    async with bubblewrap.start(task.model_copy(update={"workdir": workdir})) as sandbox:
        result = await sandbox.execute("pwd; ls", action_id="a", timeout=5)
        assert result.output == f"{workdir}\nmodule\n"


async def test_without_bubblewrap(
    bubblewrap: BubblewrapProvider, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxError, match="not installed: apt-get install bubblewrap"):
        async with bubblewrap.start(task):
            pass


async def test_one_that_does_not_start(tmp_path: Path, task: Task) -> None:
    settings = BubblewrapSettings(state_dir=tmp_path, binds=[Path("/no/such/folder")])
    provider = BubblewrapProvider(settings)
    with pytest.raises(SandboxError, match=r"bwrap: .*/no/such/folder.*No such file"):
        async with provider.start(task):
            pass
    assert os.listdir(tmp_path) == []


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that others can read: as root, sandboxes run under a host user of their own."""
    folder = Path(tempfile.mkdtemp(prefix="pilotfish-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


async def test_shown_folders_and_environment(tmp_path: Path, open_folder: Path, task: Task) -> None:
    (open_folder / "data").write_text("data")
    (open_folder / "data").chmod(0o666)
    settings = BubblewrapSettings(
        state_dir=tmp_path, binds=[open_folder], environment={"GREETING": "hello"}
    )
    async with BubblewrapProvider(settings).start(task) as sandbox:
        command = f"cat {open_folder}/data; echo $GREETING; touch {open_folder}/data"
        result = await sandbox.execute(command, action_id="a", timeout=5)
        assert result.output.startswith("datahello\n")
        assert "Read-only" in result.output


def interpreter(prefix: Path) -> Path:
    """The system's interpreter as if it were installed somewhere else."""
    system = Path("/usr/bin/python3").resolve()
    (prefix / "bin").mkdir(parents=True)
    (prefix / "lib").mkdir()
    (prefix / "lib" / system.name).symlink_to(f"/usr/lib/{system.name}")
    (prefix / "bin" / "python3").symlink_to(system.name)
    shutil.copy(system, prefix / "bin")
    return prefix / "bin" / "python3"


async def test_an_interpreter_elsewhere(tmp_path: Path, open_folder: Path, task: Task) -> None:
    python = interpreter(open_folder / "prefix")
    settings = BubblewrapSettings(state_dir=tmp_path, python=python)
    async with BubblewrapProvider(settings).start(task) as sandbox:
        result = await sandbox.execute(
            "command -v python3; python3 module/a.py", action_id="a", timeout=5
        )
        assert result.output == f"{python}\nhello\n"


@pytest.mark.skipif(os.getuid() != 0, reason="an ordinary user's sandboxes reach what the user can")
async def test_an_interpreter_that_only_root_can_reach(tmp_path: Path, task: Task) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    python = interpreter(tmp_path / "private" / "prefix")
    settings = BubblewrapSettings(state_dir=tmp_path / "state", python=python)
    with pytest.raises(SandboxError, match="which only root can reach"):
        async with BubblewrapProvider(settings).start(task):
            pass


async def test_a_state_folder_with_a_path_too_long_for_sockets(tmp_path: Path, task: Task) -> None:
    deep = tmp_path / ("d" * 100) / "state"
    provider = BubblewrapProvider(BubblewrapSettings(state_dir=deep))
    async with provider.start(task) as sandbox:
        other = await BubblewrapProvider(BubblewrapSettings(state_dir=deep)).attach(sandbox.id)
        result = await other.execute("echo on", action_id="a", timeout=5)
        assert result.output == "on\n"


async def test_32_at_once(bubblewrap: BubblewrapProvider, task: Task) -> None:
    async def attempt(index: int) -> str:
        async with bubblewrap.start(task) as sandbox:
            await sandbox.write("me", str(index))
            result = await sandbox.execute("cat me; python3 module/a.py", action_id="a", timeout=60)
            return result.output

    outputs = await asyncio.gather(*(attempt(index) for index in range(32)))
    assert outputs == [f"{index}hello\n" for index in range(32)]
    assert os.listdir(bubblewrap.state.path) == []


async def test_a_start_that_is_cancelled_leaves_nothing(
    bubblewrap: BubblewrapProvider, task: Task
) -> None:
    endless = task.model_copy(update={"setup": ["sleep 1000"]})

    async def start() -> None:
        async with bubblewrap.start(endless):
            pass

    starting = asyncio.ensure_future(start())
    while not (records := bubblewrap.state.all()):
        await asyncio.sleep(0.001)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not records[0].process.alive
    assert os.listdir(bubblewrap.state.path) == []


async def test_its_lifetime_ends_without_help(tmp_path: Path, task: Task) -> None:
    provider = BubblewrapProvider(BubblewrapSettings(state_dir=tmp_path, lifetime=1.0))
    async with provider.start(task) as sandbox:
        with pytest.raises(SandboxLost):
            await sandbox.execute("sleep 60", action_id="a", timeout=60)


async def test_what_was_left_behind_is_reaped(bubblewrap: BubblewrapProvider, task: Task) -> None:
    old = bubblewrap.state.path / "half-made"
    old.mkdir()
    os.utime(old, (0, 0))
    fresh = bubblewrap.state.path / "being-made"
    fresh.mkdir()
    assert list(await bubblewrap.reap()) == ["half-made"]
    assert fresh.exists()


async def test_a_start_that_is_cancelled_at_any_moment_leaves_nothing(
    bubblewrap: BubblewrapProvider, task: Task
) -> None:
    async def start() -> None:
        async with bubblewrap.start(task):
            await asyncio.Event().wait()

    for moment in range(25):
        starting = asyncio.ensure_future(start())
        for _ in range(moment):
            await asyncio.sleep(0.002)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        assert os.listdir(bubblewrap.state.path) == []
    assert not processes_of(bubblewrap)


def processes_of(provider: BubblewrapProvider) -> list[Path]:
    return [p for p in Path("/proc").iterdir() if p.name.isdigit() and _is_of(p, provider)]


def _is_of(process: Path, provider: BubblewrapProvider) -> bool:
    """Whether it holds a file in the provider's folder open: its log, as bubblewrap does."""
    with contextlib.suppress(OSError):
        files = [os.readlink(fd) for fd in (process / "fd").iterdir()]
        return process.name != str(os.getpid()) and any(
            name.startswith(str(provider.state.path)) for name in files
        )
    return False


async def test_a_task_may_name_its_memory(bubblewrap: BubblewrapProvider, task: Task) -> None:
    small = task.model_copy(update={"memory": 96 * 2**20})
    eats = "python3 -c 'x = bytearray(150 * 2**20); print(len(x))'"
    for asked, code in ((task, 0), (small, 1)):
        async with bubblewrap.start(asked) as sandbox:
            result = await sandbox.execute(eats, action_id="a", timeout=20)
            assert (result.exit_code == 0) == (code == 0), result


async def test_what_was_released_and_cannot_outlive_us_ends_with_the_provider(
    bubblewrap: BubblewrapProvider, task: Task
) -> None:
    async with bubblewrap:
        async with bubblewrap.start(task) as sandbox:
            await sandbox.release()
        record = bubblewrap.state.load(sandbox.id)
        assert record is not None
        assert record.process.alive
    assert not record.process.alive
    assert os.listdir(bubblewrap.state.path) == []


def test_no_descriptor_is_closed_twice_under_uvloop(tmp_path: Path) -> None:
    """It would be another's by then: another sandbox's folder, say."""

    async def main() -> None:
        held = []
        for _ in range(20):
            reader, writer = os.pipe()
            os.write(writer, b"said")
            os.close(writer)
            with os.fdopen(reader, "rb") as pipe:
                assert await read_to_end(pipe) == b"said"
            held.append(os.open(tmp_path, os.O_PATH))  # takes the number that was freed
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        for descriptor in held:
            os.fstat(descriptor)
            os.close(descriptor)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


COMMAND = "echo begun >> log; until [ -e go ]; do sleep 0.02; done; echo ended"
PARENT = """
import asyncio, sys
from pathlib import Path
from pilotfish import Task
from service.sandboxes.bubblewrap import BubblewrapProvider, BubblewrapSettings

async def main():
    settings = BubblewrapSettings(state_dir=Path(sys.argv[1]), outlive_parent=sys.argv[2] == "yes")
    task = Task(id="t", statement="s", image="host")
    async with BubblewrapProvider(settings).start(task, labels={"run": "r"}) as sandbox:
        command = sys.argv[-1]
        running = asyncio.ensure_future(sandbox.execute(command, action_id="a", timeout=60))
        await sandbox.execute("until [ -e log ]; do sleep 0.02; done", action_id="b", timeout=60)
        print(sandbox.id, flush=True)
        await running

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def parent(state: Path, outlive: str) -> AsyncIterator[tuple[ProcessId, str]]:
    """Another process with a sandbox in which a command runs, and the sandbox's id."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(state), outlive, COMMAND),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None
    try:
        yield ProcessId.of(process.pid), (await process.stdout.readline()).decode().strip()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_a_killed_parent_leaves_nothing_behind(tmp_path: Path) -> None:
    async with parent(tmp_path, "no") as (process, sandbox_id):
        record = StateFolder(tmp_path).load(sandbox_id)
        assert record is not None
        assert record.process.alive
        process.kill()
        assert await record.process.gone(5)
    provider = BubblewrapProvider(BubblewrapSettings(state_dir=tmp_path))
    with pytest.raises(SandboxLost):
        await provider.attach(sandbox_id)
    assert list(await provider.reap()) == [sandbox_id]
    assert os.listdir(tmp_path) == []


async def test_outliving_a_killed_parent(tmp_path: Path) -> None:
    async with parent(tmp_path, "yes") as (process, sandbox_id):
        process.kill()
        assert await process.gone(5)
    provider = BubblewrapProvider(BubblewrapSettings(state_dir=tmp_path))
    assert list(await provider.reap()) == []
    sandbox = await provider.attach(sandbox_id)
    redelivered = asyncio.ensure_future(sandbox.execute(COMMAND, action_id="a", timeout=60))
    await sandbox.write("go", "")
    assert (await redelivered).output == "ended\n"
    assert await sandbox.read("log") == "begun\n"
    assert list(await provider.reap(of_run("r"))) == [sandbox_id]
    assert os.listdir(tmp_path) == []


async def test_a_process_number_that_was_given_again(tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "60"])  # noqa: ASYNC220
    try:
        real = ProcessId.of(bystander.pid)
        earlier = ProcessId(real.pid, real.started - 1)
        assert not earlier.alive
        earlier.kill()
        assert await earlier.gone(1)
        assert bystander.poll() is None
        real.kill(signal.SIGTERM)
        assert await real.gone(5)
    finally:
        bystander.wait(5)
    assert not real.alive


@contextlib.asynccontextmanager
async def on_tcp(path: str) -> AsyncIterator[int]:
    """A Unix socket's server on a port of the loopback, for clients that know only those."""

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
        target.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_the_stock_client_can_use_it(bubblewrap: BubblewrapProvider, task: Task) -> None:
    async with bubblewrap.start(task) as sandbox:
        with bubblewrap.state.address(sandbox.id) as path:
            async with on_tcp(path) as port:
                stock = RemoteRuntime(host="http://127.0.0.1", port=port, auth_token="")
                assert await stock.is_alive()
                both = await stock.execute(
                    Command(command="echo a; echo b >&2; exit 3", shell=True)
                )
                assert (both.stdout, both.stderr, both.exit_code) == ("a\n", "b\n", 3)
                listed = await stock.execute(
                    Command(command=["ls", "/workspace"], env={"LANG": "C"})
                )
                assert listed.stdout == "module\n"
                await stock.write_file(WriteFileRequest(path="/workspace/x/y", content="täglich"))
                read = await stock.read_file(ReadFileRequest(path="/workspace/x/y"))
                assert read.content == "täglich"
                with pytest.raises(FileNotFoundError):
                    await stock.read_file(ReadFileRequest(path="/workspace/z"))
                with pytest.raises(CommandTimeoutError):
                    await stock.execute(Command(command="sleep 10", shell=True, timeout=0.2))
                with pytest.raises(NonZeroExitCodeError, match="the reason"):
                    await stock.execute(
                        Command(command=["false"], check=True, error_msg="the reason")
                    )
                await stock.close()
                record = bubblewrap.state.load(sandbox.id)
                assert record is not None
                assert await record.process.gone(5)


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        (b"nonsense\r\n\r\n", b"404"),
        (b"GET /nowhere HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /execute HTTP/1.1\r\ncontent-length: 3\r\n\r\n{]}", b"422"),
        (b"POST /execute HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}", b"422"),
        (b"POST /execute HTTP/1.1\r\ncontent-length: 2\r\n\r\n[]", b"422"),
        (b'POST /execute HTTP/1.1\r\ncontent-length: 14\r\n\r\n{"command": 7}', b"422"),
        (b"POST /execute HTTP/1.1\r\ncontent-length: 999999999999\r\n\r\n", b"413"),
        (b"POST /execute HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", b"413"),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000, b"431"),
    ],
)
async def test_requests_that_are_none(
    bubblewrap: BubblewrapProvider, task: Task, request_bytes: bytes, answer: bytes
) -> None:
    async with bubblewrap.start(task) as sandbox:
        with bubblewrap.state.address(sandbox.id) as path:
            reader, writer = await asyncio.open_unix_connection(path)
        writer.write(request_bytes)
        line = await asyncio.wait_for(reader.readline(), timeout=5)
        assert line.split()[1] == answer
        writer.close()
        assert (await sandbox.execute("echo on", action_id="a", timeout=5)).output == "on\n"


def use_of(pid: int) -> tuple[float, int]:
    """CPU seconds and resident bytes."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    seconds = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return seconds, int(pages) * os.sysconf("SC_PAGESIZE")


async def test_start_and_execution_cost_little(bubblewrap: BubblewrapProvider, task: Task) -> None:
    """The bounds are loose, for machines that do other things too; the measured figures are in
    the guest server's docstring."""
    async with bubblewrap.start(task) as sandbox:
        record = bubblewrap.state.load(sandbox.id)
        assert record is not None
        seconds, resident = use_of(record.pid)
        assert seconds < 0.3
        assert resident < 30 * 2**20
        began = time.monotonic()
        for index in range(50):
            await sandbox.execute("true", action_id=str(index), timeout=5)
        assert (time.monotonic() - began) / 50 < 0.1
