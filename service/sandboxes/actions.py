"""How an action is executed exactly once: by our own guest server, which does it natively, or by a
shell script on any SWE-ReX server. Knows nothing of how the server came to be.

An action has an id. What runs in the sandbox keeps its output and exit code under that id inside
the sandbox, so that a second delivery waits for the running one or reads the recorded result, and
never runs the command again. An id that comes with another command than before (a journal lost its
end) is ``SandboxLost``: the sandbox has seen what the journal does not know.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from pilotfish import Observation
from search.errors import SandboxError, SandboxLost
from service.sandboxes.guest import OTHER, elide
from service.sandboxes.server import TIMED_OUT, Reply, RexServer, Server

log = structlog.get_logger()

SCRIPT = Path(__file__).with_name("actions.sh")
MAX_COMMAND = 120_000
"""Bytes of the longest command: Linux takes 128 KiB in one argument."""
GRACE = 20.0
"""Seconds that a server may take to answer beyond the command's own time limit."""


@dataclass(frozen=True)
class Action:
    id: str
    command: str
    timeout: float
    cwd: str


class Actions(Protocol):
    """Executes actions on one server."""

    async def run(self, action: Action) -> Observation: ...

    async def cancel(self, action_id: str) -> None:
        """Stop it, with all that it started."""
        ...


async def execute_once(
    actions: Actions, action: Action, *, stop: Callable[[], bool] = lambda: True
) -> Observation:
    """Run it, or take its recorded result. If the caller is cancelled the command is stopped, but
    where ``stop`` says that somebody else waits for it."""
    if flaw := unusable(action.command):
        return Observation(output=flaw, exit_code=126)
    try:
        return await actions.run(action)
    except asyncio.CancelledError:
        if not stop():
            raise
        try:
            await asyncio.wait_for(actions.cancel(action.id), timeout=5)
        except (SandboxError, TimeoutError) as error:
            # It ends at its own time limit at the latest.
            log.warning("action_not_cancelled", action=action.id, error=str(error))
        raise


def unusable(command: str) -> str:
    """Why no shell could run this. It is the agent's mistake, so it is an observation."""
    try:
        size = len(command.encode())
    except UnicodeEncodeError:
        return "sh: the command is not valid text"
    if "\0" in command:
        return "sh: the command contains a NUL character"
    if size > MAX_COMMAND:
        return f"sh: the command is too long: {size:,} bytes, at most {MAX_COMMAND:,}"
    return ""


class GuestActions:
    """Our guest does it all: the request id is the action's."""

    def __init__(self, server: RexServer) -> None:
        self.server = server

    async def run(self, action: Action) -> Observation:
        began = time.monotonic()
        reply = await self.server.post(
            "execute",
            {
                "command": action.command,
                "shell": True,
                "timeout": action.timeout,
                "cwd": action.cwd,
                "merge_output_streams": True,
            },
            patience=action.timeout + GRACE,
            request_id=action.id,
        )
        return self._observation(reply, time.monotonic() - began)

    async def cancel(self, action_id: str) -> None:
        await self.server.post("cancel", {"request_id": action_id}, patience=GRACE)

    def _observation(self, reply: Reply, waited: float) -> Observation:
        fields = reply.fields
        if fields.get("stopped") == "client gone":
            # Nobody came to wait for it in time: that is no result of the agent's.
            raise SandboxLost("a command was stopped because nobody waited for it any more")
        if reply.failure == TIMED_OUT:
            output, code = fields.get("output", ""), None
        elif reply.failure == OTHER:
            raise SandboxLost(reply.message)
        elif reply.failure == "builtins.LookupError":
            raise SandboxError(reply.message)
        elif reply.failure:
            # The shell itself could not be started: no such folder, no process left.
            output, code = f"sh: {reply.message}", 126
        else:
            output, code = fields["stdout"], fields["exit_code"]
        return concluded(
            output,
            code,
            stopped=fields.get("stopped", ""),
            truncated=fields.get("truncated", False),
            seconds=fields.get("seconds", waited),
        )


class ScriptedActions:
    """Any SWE-ReX server: ``actions.sh`` in a folder of the sandbox. No request takes longer than
    a moment, because the stock server can do nothing else meanwhile: the command runs beside the
    server, and its end is polled for. That costs about 50 ms a command (the guest: 3), and up to
    half a second of delay for one that takes long.

    ``wait`` is how many hundredths of a second each further request waits, where the server can do
    other things meanwhile. With a ``key`` nobody who has it not can tell the folder that an action
    will have, and leave a result there."""

    FIRST_WAIT = 15
    """Hundredths of a second that the first request waits: most commands end in that time."""

    def __init__(
        self, server: Server, folder: str, *, output: int, wait: int = 0, key: bytes = b""
    ) -> None:
        self.server = server
        self.folder = folder
        self.script = f"{folder}/actions.sh"
        self.output = output
        self.wait = wait
        self.key = key

    async def install(self) -> None:
        body = {"path": self.script, "content": SCRIPT.read_text()}
        reply = await self.server.post("write_file", body, patience=GRACE)
        if reply.failure:
            raise SandboxError(f"cannot write {self.script}: {reply.message}")

    async def run(self, action: Action) -> Observation:
        began = time.monotonic()
        end = began + action.timeout + GRACE
        wait, pause = self.FIRST_WAIT, 0.02
        while True:
            observation = await self._deliver(action, wait)
            if observation is not None:
                seconds = time.monotonic() - began
                return observation.model_copy(update={"seconds": round(seconds, 6)})
            if time.monotonic() > end:
                raise SandboxLost(f"action {action.id} neither ended nor could be stopped")
            await asyncio.sleep(pause)
            wait, pause = self.wait, min(2 * pause, 0.5)

    async def cancel(self, action_id: str) -> None:
        await self._script("stop", *self._names(action_id))

    async def sweep(self, mark: str) -> None:
        """Kill all that any action of this sandbox left running."""
        await self._script("sweep", mark)

    async def _deliver(self, action: Action, wait: int) -> Observation | None:
        asked = hashlib.sha256(f"{action.cwd}\0{action.command}".encode()).hexdigest()
        details = [str(wait), str(action.timeout), str(self.output), asked, action.cwd]
        stdout = await self._script("run", *self._names(action.id), *details, action.command)
        status, _, output = stdout.partition("\n")
        if status == "running":
            return None
        if status == "other":
            raise SandboxLost(f"{action.id} is the id of another command, which was run here")
        try:
            _, code, reason, total, head_size, tail_size, boundary = status.split()
            head, tail = output.split(boundary)
            omitted = int(total) - int(head_size) - int(tail_size)
        except ValueError:
            raise SandboxError(f"action {action.id} left no result: {stdout[:200]!r}") from None
        return concluded(
            elide(head.encode(), tail.encode(), omitted),
            None if reason == "timeout" else int(code),
            stopped="" if reason == "ended" else reason,
            truncated=omitted > 0,
            seconds=0.0,
        )

    def _names(self, action_id: str) -> tuple[str, str]:
        """The action's folder, and the mark that its processes carry."""
        name = action_id.encode().hex()
        if self.key:
            name = hmac.digest(self.key, action_id.encode(), "sha256").hex()
        return f"{self.folder}/{name}", f"{self.folder.rsplit('/', 2)[-2]}:{name}"

    async def _script(self, *arguments: str) -> str:
        body = {"command": ["sh", self.script, *arguments], "timeout": GRACE}
        reply = await self.server.post("execute", body, patience=2 * GRACE)
        if reply.failure:
            raise SandboxError(f"{self.script} {arguments[0]} failed: {reply.message}")
        if reply.fields.get("exit_code") != 0:
            raise SandboxLost(f"{self.script} is gone: {reply.fields.get('stderr', '')[:200]}")
        return str(reply.fields["stdout"])


def concluded(
    output: str, code: int | None, *, stopped: str, truncated: bool, seconds: float
) -> Observation:
    """The observation of an ended command; why it was stopped is said in its output too, because
    the agent sees nothing else."""
    if stopped in ("cancelled", "client gone"):
        code = None
    if stopped and stopped != "timeout":
        output = f"{output}\n[the command was stopped: {stopped}]\n"
    return Observation(
        output=output,
        exit_code=code,
        seconds=seconds,
        truncated=truncated,
        timed_out=stopped == "timeout",
    )
