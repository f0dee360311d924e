"""Deterministic implementations of the contracts, for tests and for trying things out.

They are product code: ``pilotfish`` can serve them, so that a scaffold can be plugged in and tried
without a model. They prove nothing about the real parts.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pilotfish import Message, Observation, Task
from pilotfish.strategy import Sampling
from search.contracts import Gone, Sample, Sandbox, Score
from search.errors import CriticError, JournalError, PolicyError, SandboxError, SandboxLost

Script = Callable[[Sequence[Message], int], Sequence[Sample]]
"""From a state and n to the samples, in the order in which they complete."""


class FakePolicy:
    """Says what ``script`` says, each sample after ``delay`` seconds more."""

    def __init__(self, script: Script, *, name: str = "fake-policy", delay: float = 0.0) -> None:
        self.name, self._script, self._delay = name, script, delay
        self.asked: list[tuple[int, Sampling]] = []
        self.cancelled = 0
        """Calls that were closed before their last sample."""

    async def sample(
        self, state: Sequence[Message], n: int, sampling: Sampling, *, session: str | None = None
    ) -> AsyncGenerator[Sample, None]:
        self.asked.append((n, sampling))
        finished = False
        try:
            for sample in self._script(state, n):
                await asyncio.sleep(self._delay)
                yield sample
            finished = True
        finally:
            self.cancelled += not finished


def saying(*texts: str) -> Script:
    """A script that gives these texts, the i-th as sample i, whatever the state."""

    def script(state: Sequence[Message], n: int) -> list[Sample]:
        return [
            Sample(index=i, message=Message.assistant(text), tokens=len(text.split()))
            for i, text in enumerate(texts[:n])
        ]

    return script


def turn_by_turn(*turns: Sequence[str]) -> Script:
    """A script whose samples depend on how many agent turns the state has; the last one stays."""

    def script(state: Sequence[Message], n: int) -> Sequence[Sample]:
        number = sum(message.role == "assistant" for message in state)
        return saying(*turns[min(number, len(turns) - 1)])(state, n)

    return script


class FailingPolicy:
    """Fails before its first sample."""

    name = "failing-policy"

    async def sample(
        self, state: Sequence[Message], n: int, sampling: Sampling, *, session: str | None = None
    ) -> AsyncGenerator[Sample, None]:
        raise PolicyError("the policy is not there")
        yield  # pragma: no cover - makes this a generator


class FakeCritic:
    """Q is what ``value`` says of the state and the action."""

    every_turn = True

    def __init__(
        self,
        value: Callable[[Sequence[Message], Message], float],
        *,
        name: str = "fake-critic",
        delay: float = 0.0,
    ) -> None:
        self.name, self._value, self._delay = name, value, delay
        self.warmed = 0
        self.scored = 0
        self.down = False
        """Set it, and every scoring fails."""

    async def warm(self, state: Sequence[Message], *, session: str | None = None) -> None:
        self.warmed += 1

    async def score(
        self, state: Sequence[Message], actions: Sequence[Message], *, session: str | None = None
    ) -> list[Score]:
        await asyncio.sleep(self._delay)
        if self.down:
            raise CriticError("the critic is not there")
        self.scored += len(actions)
        return [Score(self._value(state, action)) for action in actions]

    async def score_turns(self, messages: Sequence[Message]) -> list[Score]:
        scores: list[Score] = []
        for i, message in enumerate(messages):
            if message.role == "assistant":
                scores += await self.score(messages[:i], [message])
        return scores


class ConstantCritic(FakeCritic):
    """The same Q for everything: the baseline that chooses the most probable candidate."""

    def __init__(self, q: float = 0.5) -> None:
        super().__init__(lambda state, action: q, name="constant")


class FakeSandbox:
    """Files in a dict; commands are answered by ``respond``; it counts what really runs."""

    def __init__(self, sandbox_id: str, respond: Callable[[str], str]) -> None:
        self.id = sandbox_id
        self.files: dict[str, str] = {}
        self.ran: list[str] = []
        """Commands that were run, in order; a redelivered action is not among them."""
        self.labels: dict[str, str] = {}
        self.closed = self.released = False
        self._respond = respond
        self._results: dict[str, Observation] = {}
        self._asked: dict[str, str] = {}

    def _check(self) -> None:
        if self.closed:
            raise SandboxLost(f"sandbox {self.id} is gone")

    async def execute(
        self, command: str, *, action_id: str, timeout: float, cwd: str | None = None
    ) -> Observation:
        self._check()
        if self._asked.setdefault(action_id, command) != command:
            raise SandboxLost(f"{action_id} is the id of another command, which was run here")
        if action_id not in self._results:
            self.ran.append(command)
            try:
                self._results[action_id] = Observation(output=self._respond(command), exit_code=0)
            except ValueError as error:
                self._results[action_id] = Observation(output=str(error), exit_code=1)
        return self._results[action_id]

    async def write(self, path: str, text: str) -> None:
        self._check()
        self.files[path] = text

    async def read(self, path: str) -> str:
        self._check()
        if path not in self.files:
            raise SandboxError(f"no file {path}")
        return self.files[path]

    async def close(self) -> None:
        self.closed = self.closed or not self.released

    async def release(self) -> None:
        self.released = True


class _Attached:
    """Another handle of a sandbox: letting go of one lets not go of the other."""

    def __init__(self, sandbox: FakeSandbox) -> None:
        self.id, self._sandbox = sandbox.id, sandbox
        self.execute, self.write, self.read = sandbox.execute, sandbox.write, sandbox.read
        self._released = False

    async def close(self) -> None:
        self._sandbox.closed = self._sandbox.closed or not self._released

    async def release(self) -> None:
        self._released = True


class FakeSandboxes:
    """Gives out ``FakeSandbox``es. ``respond`` gives a command's output; ``ValueError`` from it is
    a command that exits with 1. One that was released stays for whoever attaches to it."""

    def __init__(self, respond: Callable[[str], str] = lambda command: "") -> None:
        self._respond = respond
        self.all: dict[str, FakeSandbox] = {}
        self.fail_next = 0
        """How many of the next starts fail."""

    @asynccontextmanager
    async def start(
        self, task: Task, *, labels: dict[str, str] | None = None
    ) -> AsyncIterator[Sandbox]:
        if self.fail_next:
            self.fail_next -= 1
            raise SandboxError("the sandbox did not start")
        sandbox = FakeSandbox(f"fake-{len(self.all)}", self._respond)
        sandbox.labels = labels or {}
        self.all[sandbox.id] = sandbox
        sandbox.files.update(task.files)
        try:
            yield sandbox
        finally:
            await sandbox.close()

    async def attach(self, sandbox_id: str) -> Sandbox:
        sandbox = self.all.get(sandbox_id)
        if sandbox is None or sandbox.closed:
            raise SandboxLost(f"sandbox {sandbox_id} is gone")
        return _Attached(sandbox)

    async def reap(self, gone: Gone | None = None) -> dict[str, Mapping[str, str]]:
        removed: dict[str, Mapping[str, str]] = {}
        for sandbox in self.all.values():
            if gone is not None and not sandbox.closed and await gone(sandbox.labels):
                sandbox.closed = True
                removed[sandbox.id] = sandbox.labels
        return removed


class MemoryJournal:
    """A journal that ends with the process. ``crash_after`` makes the n-th append fail, once; with
    ``applied`` the entry is there all the same, and only the answer is lost."""

    def __init__(self, *, crash_after: int | None = None, applied: bool = False) -> None:
        self._entries: list[dict[str, Any]] = []
        self._crash_after, self._applied = crash_after, applied

    async def append(self, kind: str, **data: Any) -> None:
        if self._crash_after is not None and len(self._entries) >= self._crash_after:
            self._crash_after = None
            if self._applied:
                self._entries.append({"kind": kind, "at": time.time(), **data})
            raise JournalError("the journal is not there")
        self._entries.append({"kind": kind, "at": time.time(), **data})

    async def entries(self) -> list[dict[str, Any]]:
        return list(self._entries)


def noisy(
    value: Callable[[Sequence[Message], Message], float], scale: float, seed: int = 0
) -> Callable[[Sequence[Message], Message], float]:
    """``value`` with an error that depends only on seed, state length and action: a critic that is
    wrong in the same way every time."""

    def worse(state: Sequence[Message], action: Message) -> float:
        rng = random.Random(f"{seed}/{len(state)}/{action.text}")
        return min(1.0, max(0.0, value(state, action) + rng.gauss(0, scale)))

    return worse
