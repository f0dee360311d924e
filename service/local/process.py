"""Processes of this machine: who one is (across reuse of its number), and ending it. Knows nothing
of what they do."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from search.errors import SearchError

log = structlog.get_logger()

GUARDIAN = Path(__file__).with_name("guardian.py")


@dataclass(frozen=True)
class ProcessId:
    """One process, for good: a number is given again after its process ended, the pair of number
    and start time is not."""

    pid: int
    started: int
    """Clock ticks from the machine's start."""

    @classmethod
    def of(cls, pid: int) -> Self:
        """Raises: ``ProcessLookupError``."""
        return cls(pid, _started(pid))

    @property
    def alive(self) -> bool:
        try:
            return _started(self.pid) == self.started
        except ProcessLookupError:
            return False

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal it, and never another that got its number. One that is gone is no error."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # From here on the descriptor means one process; is it ours?
            if self.alive:
                signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(fd)

    async def gone(self, timeout: float) -> bool:
        """Wait for its end; False if it has not come within ``timeout`` seconds."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            return not self.alive or await _readable(fd, timeout)
        finally:
            os.close(fd)


async def collect(child: subprocess.Popen[bytes], timeout: float) -> bool:
    """Wait for the end of a child of ours without blocking the loop, and without a thread; False if
    it has not come within ``timeout`` seconds."""
    if child.poll() is None:
        fd = os.pidfd_open(child.pid)  # Nobody else can have its number before we collect it.
        try:
            if not await _readable(fd, timeout):
                return False
        finally:
            os.close(fd)
        child.wait()
    return True


async def _readable(fd: int, timeout: float) -> bool:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await asyncio.wait_for(ready.wait(), timeout)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return True


def _started(pid: int) -> int:
    try:
        line = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"no process {pid}") from None
    fields = line[line.rindex(")") + 2 :].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(f"process {pid} has ended")
    return int(fields[19])


class ServerProcess:
    """A server that we start, with all that it starts itself. An async context manager: leaving it
    ends them; if we are killed they end too (see ``guardian.py``)."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        grace: float = 10.0,
        keep: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.grace = grace
        """Seconds that it has for ending well."""
        self._env = None if env is None else dict(env)
        self._keep = tuple(keep)
        self._guardian: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        # In a session of its own, so that Ctrl-C reaches us and not it: we end it in our order.
        with self.log.open("ab") as output:
            self._guardian = subprocess.Popen(  # noqa: ASYNC220 (a fork; asyncio's blocks as well)
                [sys.executable, "-I", "-S", str(GUARDIAN), str(self.grace), *self.command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._env,
                pass_fds=self._keep,
                start_new_session=True,
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.shield(asyncio.ensure_future(self._stop()))

    @property
    def exit_code(self) -> int | None:
        """``None`` while it runs."""
        return None if self._guardian is None else self._guardian.poll()

    async def ready(self, answers: Callable[[], Awaitable[bool]], *, timeout: float) -> None:
        """Wait until ``answers`` is true. Raises: ``SearchError`` with the end of its log, if it
        ends before, or does not come up in time."""
        end = time.monotonic() + timeout
        pause = 0.005
        while not await answers():
            if self.exit_code is not None:
                raise SearchError(f"{self.name} ended with code {self.exit_code}\n{self.tail()}")
            if time.monotonic() > end:
                raise SearchError(f"{self.name} was not up in {timeout:.0f} s\n{self.tail()}")
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.25)

    def tail(self, lines: int = 30) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join([f"--- {self.log} ends with:", *text.splitlines()[-lines:]])

    async def _stop(self) -> None:
        guardian = self._guardian
        if guardian is None or guardian.stdin is None:
            return
        guardian.stdin.close()
        # More than it needs: what it kills in the end cannot refuse.
        if not await collect(guardian, self.grace + 30):
            log.error("server_not_ended", server=self.name, guardian=guardian.pid)
