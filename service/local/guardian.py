"""Stands between us and a server that we start: whatever becomes of us, it ends the server with all
that the server started. Knows nothing of the server. One file of the standard library, run as

    python -I -S guardian.py SECONDS COMMAND...

It ends the command when its standard input does, which is a pipe that only we hold: when we close
it, and also when we are killed and nobody is left to close anything. First by SIGTERM to the
command's process group; after SECONDS, or when the command is gone, by SIGKILL to all that is left.

``PR_SET_PDEATHSIG`` alone would not do: it follows the thread that started the child, reaches only
the child itself, and leaves no time to end well.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time

PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    grace, command = float(sys.argv[1]), sys.argv[2:]
    # What loses its parent becomes our child, so that nothing gets away.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker)
    pid = start(command)
    status = watch(pid, woken)
    if status is None:
        signal_group(pid, signal.SIGTERM)
        status = wait(pid, grace)
    signal_group(pid, signal.SIGKILL)
    if status is None:
        status = os.waitpid(pid, 0)[1]
    kill_children()
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def start(command: list[str]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.execvp(command[0], command)
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        finally:
            os._exit(127)
    # Here as well as there: it must be a group before it is signalled, whoever is faster.
    with contextlib.suppress(PermissionError):
        os.setpgid(pid, pid)
    return pid


def watch(pid: int, woken: int) -> int | None:
    """The command's status when it ends, ``None`` when our standard input ends first."""
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            status = reap(pid)
            if status is not None:
                return status
        if 0 in ready and not os.read(0, 4096):
            return None


def reap(pid: int) -> int | None:
    """Collect children that ended; the status of this one if it is among them."""
    found = None
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if ended == 0:
            return found
        if ended == pid:
            found = status


def wait(pid: int, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        status = reap(pid)
        if status is not None:
            return status
        time.sleep(0.01)
    return None


def signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def kill_children() -> None:
    """All that left the group. Each that dies hands its own children to us."""
    while True:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            children = [int(pid) for pid in file.read().split()]
        if not children:
            return
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main())
