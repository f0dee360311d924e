"""What an agent does to its sandbox, by mistake or on purpose. Each for real, in bounded time, and
the sandbox (if it should live) is as good as before."""

from __future__ import annotations

import asyncio
import http.server
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilotfish import Observation, Task
from search.errors import SandboxError, SandboxLost
from service.local.process import ProcessId
from service.sandboxes.bubblewrap import BubblewrapProvider
from service.sandboxes.swerex import SwerexSandbox

pytestmark = pytest.mark.slow
MIB = 2**20


async def do(box: SwerexSandbox, command: str, timeout: float = 20.0) -> Observation:
    return await box.execute(command, action_id=uuid.uuid4().hex, timeout=timeout)


async def usable(box: SwerexSandbox) -> bool:
    """Whether it runs pipelines, python, writes files, and has nothing left running."""
    began = time.monotonic()
    await box.write("probe", "still here")
    result = await do(box, "cat probe | cat | python3 -c 'print(input())'; rm probe")
    assert result.output == "still here\n", result
    assert time.monotonic() - began < 5
    return True


def memory(bubblewrap: BubblewrapProvider, box: SwerexSandbox) -> int:
    """Bytes of the guest server, as the host sees it."""
    record = bubblewrap.state.load(box.id)
    assert record is not None
    return int(Path(f"/proc/{record.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize(
    "bomb",
    [
        ":(){ :|:& };:",
        "bomb() { bomb | bomb & }; bomb; wait",
        'f() { setsid sh -c "$1" sh "$1" & setsid sh -c "$1" sh "$1" & }; '
        'f \'setsid sh -c "$1" sh "$1" & setsid sh -c "$1" sh "$1" & wait\'; wait',
        "exec env -i python3 -c 'import os\nwhile True:\n try:\n  os.fork() or os.setsid()\n"
        " except OSError: pass'",
    ],
)
async def test_fork_bomb(box: SwerexSandbox, bomb: str) -> None:
    began = time.monotonic()
    await do(box, bomb, timeout=2)
    assert time.monotonic() - began < 10
    # What is left in the background is found out a moment later.
    while (
        "few"
        not in (await do(box, '[ "$(ls -d /proc/[0-9]* | wc -l)" -lt 40 ] && echo few')).output
    ):
        assert time.monotonic() - began < 15
    assert await usable(box)


async def test_a_fork_bomb_hurts_nobody_else(
    bubblewrap: BubblewrapProvider, box: SwerexSandbox, task: Task
) -> None:
    async with bubblewrap.start(task) as other:
        bomb = asyncio.ensure_future(
            do(
                box,
                "python3 -c 'import os\nwhile True:\n try: os.fork()\n except OSError: pass'",
                4,
            )
        )
        while not bomb.done():
            assert await usable(other)
        # Stopped at its time limit, or earlier for the memory of so many interpreters.
        assert (await bomb).exit_code in (None, 137)


async def test_one_process_that_wants_all_memory(box: SwerexSandbox) -> None:
    result = await do(box, "python3 -c 'x = bytearray(4 << 30)'")
    assert "MemoryError" in result.output
    assert await usable(box)


async def test_many_processes_that_want_all_memory(box: SwerexSandbox) -> None:
    hog = "import time; x = bytearray(100 << 20); time.sleep(60)"
    command = f"for i in 1 2 3 4 5 6 7 8; do python3 -c '{hog}' & done; wait"
    began = time.monotonic()
    result = await do(box, command, timeout=50)
    assert time.monotonic() - began < 15
    assert result.exit_code == 137
    assert "stopped: memory" in result.output
    assert await usable(box)


async def test_memory_hogs_in_the_background(box: SwerexSandbox) -> None:
    hog = "import time; x = bytearray(100 << 20); time.sleep(60)"
    command = f"for i in 1 2 3 4; do python3 -c '{hog}' >/dev/null & done"
    assert (await do(box, command)).exit_code == 0
    gone = await do(box, "while ps ax | grep -q '[b]ytearray'; do sleep 0.05; done", timeout=15)
    assert gone.exit_code == 0
    assert await usable(box)


@pytest.mark.parametrize("place", ["/tmp", ".", "/dev/shm"])
async def test_filling_the_disk(box: SwerexSandbox, place: str) -> None:
    command = f"for i in 1 2 3; do cat /dev/zero > {place}/big$i; done; du -sm {place}"
    began = time.monotonic()
    result = await do(box, command)
    assert time.monotonic() - began < 15
    assert "No space left" in result.output or "File too large" in result.output
    assert int(result.output.split("\n")[-2].split()[0]) <= 17
    if place == ".":
        with pytest.raises(SandboxError, match="No space left"):
            await box.write("more", "text")
    await do(box, f"rm {place}/big*")
    assert await usable(box)


async def test_files_without_end(box: SwerexSandbox) -> None:
    script = "import itertools\nfor i in itertools.count(): open(f'f{i}', 'w').close()"
    result = await do(box, f'mkdir d; cd d; python3 -c "{script}"', timeout=60)
    assert result.exit_code == 137
    assert "too many files" in result.output
    assert (await do(box, "rm -r d")).exit_code == 0
    assert await usable(box)


async def test_output_without_end(bubblewrap: BubblewrapProvider, box: SwerexSandbox) -> None:
    before = memory(bubblewrap, box)
    result = await do(box, "yes pilotfish", timeout=2)
    assert result.timed_out
    assert result.truncated
    assert len(result.output) < 101_000
    assert memory(bubblewrap, box) - before < 8 * MIB
    assert await usable(box)


async def test_background_output_without_end(
    bubblewrap: BubblewrapProvider, box: SwerexSandbox
) -> None:
    began = time.monotonic()
    assert (await do(box, "yes & sleep 0.1")).exit_code == 0
    assert time.monotonic() - began < 5
    assert await usable(box)
    assert memory(bubblewrap, box) < 40 * MIB


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow", "/root", "/home", "/var/log", "/var/lib", "/run/systemd", "/boot", "/opt",
        "/srv", "/mnt", "/sys", "/etc/ssh", "/etc/ssl/private", "/proc/kcore",
        str(Path(__file__).parents[3]),
    ],
)  # fmt: skip
async def test_host_secrets(box: SwerexSandbox, path: str) -> None:
    result = await do(box, f"cat {path} || ls {path}/*")
    assert result.exit_code != 0
    assert len(result.output.splitlines()) <= 2


async def test_the_hosts_environment_and_processes(
    bubblewrap: BubblewrapProvider, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    async with bubblewrap.start(task) as box:
        result = await do(
            box, "env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'"
        )
        assert "secret" not in result.output
        assert "pytest" not in result.output
        result = await do(box, "ls -l /proc/1/fd /proc/self/fd")
        assert str(Path.home()) not in result.output


@pytest.mark.parametrize("path", ["/usr/x", "/etc/x", "/x", "/dev/x", "/run/x", "/var/x"])
async def test_only_its_own_folders_can_be_written(box: SwerexSandbox, path: str) -> None:
    result = await do(box, f"echo x > {path}")
    assert "Read-only" in result.output
    with pytest.raises(SandboxError, match="Read-only"):
        await box.write(path, "x")


async def test_it_is_nobody_and_can_become_nobody_else(box: SwerexSandbox) -> None:
    assert (await do(box, "id -u")).output == "1000\n"
    result = await do(box, "grep -E '^(Cap|NoNewPrivs)' /proc/self/status | tr -d '\\t 0\\n'")
    assert result.output == "CapInh:CapPrm:CapEff:CapBnd:CapAmb:NoNewPrivs:1"
    for command in ("unshare -U true", "mount -t tmpfs x /tmp", "chroot / true", "su -c true"):
        assert (await do(box, command)).exit_code != 0


@pytest.fixture
def host_port() -> Iterator[int]:
    """A service on the host's loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


async def test_network(box: SwerexSandbox, host_port: int) -> None:
    script = (
        "import socket\n"
        f"for address in [('127.0.0.1', {host_port}), ('1.1.1.1', 53), ('169.254.169.254', 80)]:\n"
        "    try: socket.create_connection(address, timeout=2); print('connected')\n"
        "    except OSError as error: print(error.strerror)\n"
    )
    await box.write("connect.py", script)
    result = await do(box, "python3 connect.py")
    assert result.output.splitlines() == ["Connection refused"] + 2 * ["Network is unreachable"]
    # Its own loopback is there, for servers that a task starts.
    result = await do(
        box,
        "python3 -m http.server 8000 --bind 127.0.0.1 >log 2>&1 & "
        "until python3 -c 'import urllib.request as u; "
        'print(u.urlopen("http://127.0.0.1:8000/module/a.py").read())\' 2>/dev/null; '
        "do sleep 0.1; done",
    )
    assert "hello" in result.output


@pytest.mark.parametrize("command", ["kill -9 1", "kill -9 -1", "pkill -9 python3", "kill 1 1 1"])
async def test_its_server_cannot_be_killed_from_inside(box: SwerexSandbox, command: str) -> None:
    await do(box, command)
    assert await usable(box)


async def test_a_server_that_died_is_a_lost_sandbox(
    bubblewrap: BubblewrapProvider, box: SwerexSandbox
) -> None:
    record = bubblewrap.state.load(box.id)
    assert record is not None
    waiting = asyncio.ensure_future(do(box, "echo begun > door; sleep 60", timeout=100))
    await do(box, "until [ -e door ]; do sleep 0.01; done")
    record.process.kill()
    assert await record.process.gone(5)
    with pytest.raises(SandboxLost):
        await asyncio.wait_for(waiting, timeout=5)
    with pytest.raises(SandboxLost):
        await do(box, "true")
    with pytest.raises(SandboxLost):
        await box.read("module/a.py")
    with pytest.raises(SandboxLost):
        await bubblewrap.attach(box.id)
    assert list(await bubblewrap.reap()) == [box.id]


async def test_a_server_that_is_frozen_is_a_lost_sandbox(
    bubblewrap: BubblewrapProvider, box: SwerexSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.sandboxes.actions.GRACE", 0.5)
    record = bubblewrap.state.load(box.id)
    assert record is not None
    os.kill(record.pid, 19)
    began = time.monotonic()
    with pytest.raises(SandboxLost):
        await do(box, "true", timeout=0.5)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("make", ["mkfifo trap", "ln -s /dev/zero trap", "mkdir trap"])
async def test_a_file_that_is_none(box: SwerexSandbox, make: str) -> None:
    await do(box, make)
    began = time.monotonic()
    with pytest.raises(SandboxError):
        await box.read("trap")
    with pytest.raises(SandboxError):
        await box.write("trap", "text")
    assert time.monotonic() - began < 2
    assert await usable(box)


async def test_stopping_one_command_leaves_the_others_alone(box: SwerexSandbox) -> None:
    await do(box, "(while :; do date > beat; sleep 0.05; done) >/dev/null 2>&1 &")
    other = asyncio.ensure_future(
        do(box, "until [ -e go ]; do sleep 0.05; done; echo went", timeout=20)
    )
    assert (await do(box, "setsid sleep 100 & sleep 100", timeout=0.5)).timed_out
    await do(box, "touch go; rm beat; until [ -s beat ]; do sleep 0.02; done")
    assert (await other).output == "went\n"


async def test_all_of_it_ends_with_the_sandbox(bubblewrap: BubblewrapProvider, task: Task) -> None:
    async with bubblewrap.start(task) as box:
        record = bubblewrap.state.load(box.id)
        assert record is not None
        await do(box, "(trap '' TERM HUP; setsid env -i sleep 4321) >/dev/null 2>&1 & sleep 0.2")
        inside = [
            ProcessId.of(int(pid))
            for pid in os.listdir("/proc")
            if pid.isdigit() and is_in(int(pid), record.pid)
        ]
        assert len(inside) >= 2
    assert not any(process.alive for process in inside)
    assert os.listdir(bubblewrap.state.path) == []


def is_in(pid: int, first: int) -> bool:
    """Whether both are in the same process namespace."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{first}/ns/pid")
    except OSError:
        return False
