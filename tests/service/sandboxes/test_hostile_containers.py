"""What an agent does to its container, by mistake or on purpose. Each for real, in bounded time,
and the sandbox (if it should live) is as good as before."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path

import pytest

from pilotfish import Observation, Task
from search.errors import SandboxError, SandboxLost
from service.sandboxes.container import ContainerProvider
from service.sandboxes.swerex import SwerexSandbox
from tests.service.sandboxes.conftest import MIB, container_settings
from tests.service.sandboxes.podman import Podman

pytestmark = pytest.mark.containers


async def do(jar: SwerexSandbox, command: str, timeout: float = 20.0) -> Observation:
    return await jar.execute(command, action_id=uuid.uuid4().hex, timeout=timeout)


async def usable(jar: SwerexSandbox) -> bool:
    """Whether it runs pipelines, python, and writes files."""
    began = time.monotonic()
    await jar.write("probe", "still here")
    result = await do(jar, "cat probe | cat | python3 -c 'print(input())'; rm probe")
    assert result.output == "still here\n", result
    assert time.monotonic() - began < 10
    return True


@pytest.mark.parametrize(
    "bomb",
    [
        ":(){ :|:& };:",
        "bomb() { bomb | bomb & }; bomb; wait",
        "exec python3 -c 'import os\nwhile True:\n try:\n  os.fork() or os.setsid()\n"
        " except OSError: pass'",
        "exec env -i python3 -c 'import os\nwhile True:\n try:\n  os.fork() or os.setsid()\n"
        " except OSError: pass'",
    ],
)
async def test_fork_bomb(jar: SwerexSandbox, bomb: str) -> None:
    began = time.monotonic()
    await do(jar, bomb, timeout=2)
    assert time.monotonic() - began < 25
    # What is left in the background is found out by the next commands.
    while (await do(jar, '[ "$(ls -d /proc/[0-9]* | wc -l)" -lt 40 ]')).exit_code != 0:
        assert time.monotonic() - began < 40
    assert await usable(jar)


async def test_a_fork_bomb_hurts_nobody_else(
    containers: ContainerProvider, jar: SwerexSandbox, task: Task
) -> None:
    async with containers.start(task) as other:
        fork = "python3 -c 'import os\nwhile True:\n try: os.fork()\n except OSError: pass'"
        bomb = asyncio.ensure_future(do(jar, fork, 4))
        while not bomb.done():
            assert await usable(other)
        await bomb


async def test_one_process_that_wants_all_memory(jar: SwerexSandbox) -> None:
    result = await do(jar, "python3 -c 'x = bytearray(4 << 30)'")
    assert result.exit_code == 137
    assert await usable(jar)


async def test_many_processes_that_want_all_memory(jar: SwerexSandbox) -> None:
    hog = "import time; x = bytearray(100 << 20); time.sleep(60)"
    began = time.monotonic()
    await do(jar, f"for i in 1 2 3 4 5 6 7 8; do python3 -c '{hog}' & done; wait", timeout=8)
    assert time.monotonic() - began < 20
    assert await usable(jar)


async def test_a_tasks_own_memory(containers: ContainerProvider, task: Task) -> None:
    eat = "python3 -c 'print(len(bytearray(150 << 20)))'"
    async with containers.start(task.model_copy(update={"memory": 100 * MIB})) as small:
        assert (await do(small, eat)).exit_code == 137
    async with containers.start(task.model_copy(update={"memory": 400 * MIB})) as large:
        assert (await do(large, eat)).exit_code == 0


@pytest.mark.parametrize("place", ["/tmp", ".", "/var/tmp", "/dev/shm"])
async def test_filling_the_disk(jar: SwerexSandbox, place: str) -> None:
    command = f"for i in 1 2 3; do cat /dev/zero > {place}/big$i; done; du -sm {place}"
    result = await do(jar, command)
    assert "No space left" in result.output
    assert int(result.output.split("\n")[-2].split()[0]) <= 17
    if place == ".":
        with pytest.raises(SandboxError, match="No space left"):
            await jar.write("more", "text")
    await do(jar, f"rm {place}/big*")
    assert await usable(jar)


async def test_nothing_else_can_be_written(jar: SwerexSandbox) -> None:
    found = await do(
        jar, "find / -xdev \\( -type d -o -type f \\) -writable 2>/dev/null | grep -v ^/proc"
    )
    assert set(found.output.split()) == {"/tmp", "/var/tmp", "/workspace"}
    found = await do(jar, "ls -d /proc/sys/kernel/core_pattern /sys/fs/cgroup; echo x > /sys/x")
    assert found.exit_code != 0


async def test_read_only(engine: Podman, owner: str, task: Task) -> None:
    settings = container_settings(engine, owner, read_only=True, user="root")
    async with ContainerProvider(settings).start(task) as jar:
        result = await do(jar, "id -u; touch /usr/x; touch /tmp/x /workspace/x && echo these")
        assert "Read-only file system" in result.output
        assert result.output.startswith("0\n")
        assert result.output.endswith("these\n")


async def test_output_without_end(jar: SwerexSandbox) -> None:
    result = await do(jar, "yes pilotfish", timeout=2)
    assert result.timed_out
    assert result.truncated
    assert len(result.output) < 101_000
    assert (await do(jar, "yes & sleep 0.1")).exit_code == 0
    assert await usable(jar)


@pytest.mark.parametrize(
    "command",
    [
        "kill -9 1", "kill -9 -1", "kill 1 1 1", "kill -9 -1; exec sleep 1000",
        "pkill -9 sleep; pkill -9 sh", "while :; do pkill -9 tee; pkill -9 -f actions; done",
    ],
)  # fmt: skip
async def test_it_cannot_be_ended_from_inside(jar: SwerexSandbox, command: str) -> None:
    began = time.monotonic()
    await do(jar, command, timeout=3)
    assert time.monotonic() - began < 15
    assert await usable(jar)


async def test_one_that_killed_its_supervisor_is_stopped(jar: SwerexSandbox) -> None:
    result = await do(jar, "echo begun; kill -9 -1; exec sleep 987654", timeout=60)
    assert result.exit_code == 137
    assert (await do(jar, "ps ax | grep -q '[s]leep 987654'")).exit_code == 1


async def test_root_can_kill_everything_and_it_lives_on(
    engine: Podman, owner: str, task: Task
) -> None:
    settings = container_settings(engine, owner, user="root")
    async with ContainerProvider(settings).start(task) as jar:
        assert (await do(jar, "kill -9 -1", timeout=5)).exit_code in (137, None)
        assert await usable(jar)


async def test_signals_that_are_ignored(jar: SwerexSandbox) -> None:
    began = time.monotonic()
    caller = asyncio.ensure_future(
        do(jar, "trap '' TERM INT HUP; echo > here; while :; do :; done", timeout=60)
    )
    assert (await do(jar, "until [ -e here ]; do sleep 0.01; done")).exit_code == 0
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert time.monotonic() - began < 5
    assert await usable(jar)


async def test_secrets(
    containers: ContainerProvider, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither our environment's nor the engine's: its has a proxy's password."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    async with containers.start(task) as jar:
        seen = await do(jar, "env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'")
        assert "secret" not in seen.output
        assert "PILOTFISH_HELPER" not in (await do(jar, "env")).output
        for path in (Path(__file__).parents[3], Path.home() / ".ssh", "/var/lib/containers"):
            assert (await do(jar, f"ls {path}")).exit_code != 0
        mounts = (await do(jar, "cut -d' ' -f2 /proc/mounts")).output.split()
        ours = {"/pilotfish", "/workspace", "/tmp", "/var/tmp"}
        engines = {"/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/run/.containerenv"}
        rest = set(mounts) - ours - engines
        assert all(m == "/" or m.startswith(("/proc", "/sys", "/dev")) for m in rest), rest


async def test_it_is_nobody_and_can_become_nobody_else(jar: SwerexSandbox) -> None:
    assert int((await do(jar, "id -u")).output) >= 10_000
    result = await do(jar, "grep -E '^(Cap|NoNewPrivs)' /proc/self/status | tr -d '\\t 0\\n'")
    assert result.output == "CapInh:CapPrm:CapEff:CapBnd:CapAmb:NoNewPrivs:1"
    copied = "cp /bin/sh suid; chmod u+s suid; ./suid -p -c id"
    assert "uid=0" not in (await do(jar, copied)).output
    for command in ("mount -t tmpfs x /tmp", "chroot / true", "su -c true", "chown 0 .",
                    "mknod d b 8 0", "unshare -m true", "hostname x"):  # fmt: skip
        assert (await do(jar, command)).exit_code != 0


async def test_root_has_no_capabilities(engine: Podman, owner: str, task: Task) -> None:
    settings = container_settings(engine, owner, user="root")
    async with ContainerProvider(settings).start(task) as jar:
        result = await do(jar, "grep -E '^Cap' /proc/self/status | tr -d '\\t 0\\n'")
        assert result.output == "CapInh:CapPrm:CapEff:CapBnd:CapAmb:"
        for command in ("mount -t tmpfs x /tmp", "mknod d b 8 0", "chown 1000 /usr"):
            assert (await do(jar, command)).exit_code != 0


async def test_network(jar: SwerexSandbox) -> None:
    script = (
        "import socket\n"
        "for address in [('127.0.0.1', 22), ('1.1.1.1', 53), ('169.254.169.254', 80)]:\n"
        "    try: socket.create_connection(address, timeout=2); print('connected')\n"
        "    except OSError as error: print(error.strerror)\n"
        "print(socket.if_nameindex())\n"
    )
    await jar.write("connect.py", script)
    result = await do(jar, "python3 connect.py")
    assert result.output.splitlines() == [
        "Connection refused",
        *2 * ["Network is unreachable"],
        "[(1, 'lo')]",
    ]


async def test_results_cannot_be_left_for_actions_to_come(jar: SwerexSandbox) -> None:
    listing = await do(jar, "ls /pilotfish/actions")
    assert "Permission denied" in listing.output
    forge = (
        "name=$(printf evaluation | od -An -tx1 | tr -d ' \\n'); cd /pilotfish/actions;"
        " mkdir $name; cd $name; : > head; : > tail; echo 0 > total; echo 0 > done"
    )
    await do(jar, forge)
    assert (await jar.execute("exit 3", action_id="evaluation", timeout=5)).exit_code == 3
    for change in ("echo x >> /pilotfish/actions.sh", "rm -f /pilotfish/actions.sh",
                   "mv /pilotfish/actions /pilotfish/x"):  # fmt: skip
        assert (await do(jar, change)).exit_code != 0


@pytest.mark.parametrize("make", ["mkfifo trap", "ln -s /dev/zero trap", "mkdir trap"])
async def test_a_file_that_is_none(jar: SwerexSandbox, make: str) -> None:
    await do(jar, make)
    began = time.monotonic()
    with pytest.raises(SandboxError, match="not a regular file"):
        await jar.read("trap")
    with pytest.raises(SandboxError, match="not a regular file"):
        await jar.write("trap", "text")
    assert time.monotonic() - began < 5
    assert await usable(jar)


async def test_killed_from_outside(
    engine: Podman, containers: ContainerProvider, jar: SwerexSandbox
) -> None:
    waiting = asyncio.ensure_future(do(jar, "echo begun > door; sleep 60", timeout=100))
    await do(jar, "until [ -e door ]; do sleep 0.01; done")
    await asyncio.to_thread(engine, "kill", jar.id)
    began = time.monotonic()
    with pytest.raises(SandboxLost):
        await waiting
    with pytest.raises(SandboxLost):
        await do(jar, "true")
    with pytest.raises(SandboxLost):
        await jar.read("module/a.py")
    with pytest.raises(SandboxLost):
        await containers.attach(jar.id)
    assert time.monotonic() - began < 2
    assert list(await containers.reap()) == [jar.id]
