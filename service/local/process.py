"""Processes of this machine: who one is (across reuse of its number), and ending it. Knows nothing
of what they do."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Self


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
            if not self.alive:
                return True
            loop = asyncio.get_running_loop()
            ended = asyncio.Event()
            loop.add_reader(fd, ended.set)
            try:
                await asyncio.wait_for(ended.wait(), timeout)
            except TimeoutError:
                return bool(select.select([fd], [], [], 0)[0])
            finally:
                loop.remove_reader(fd)
            return True
        finally:
            os.close(fd)


def _started(pid: int) -> int:
    try:
        line = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"no process {pid}") from None
    fields = line[line.rindex(")") + 2 :].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(f"process {pid} has ended")
    return int(fields[19])
