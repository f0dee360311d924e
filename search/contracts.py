"""The contracts that search works over. Knows no implementation.

In the words of the decision process: a *state* is the messages so far, an *action* is one agent
turn, and the environment is a sandbox, which executes an action once and cannot be rewound.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from pilotfish import Message, Observation, Task
from pilotfish.strategy import Sampling


class Sample(BaseModel):
    """One candidate as the policy gives it, the moment it is complete."""

    model_config = ConfigDict(extra="forbid")

    index: int = Field(ge=0)
    """0 to n-1, as the policy numbers it."""
    message: Message | None = None
    """``None`` where this sample failed; ``error`` says why."""
    logprob: float | None = None
    """Sum of token log-probabilities, nats."""
    tokens: int = Field(default=0, ge=0)
    prompt_tokens: int = Field(default=0, ge=0)
    """Prompt tokens of the whole request (the same in each of its samples; 0 where not known)."""
    finish_reason: str | None = None
    error: str | None = None
    under_way: dict[int, int] = Field(default_factory=dict)
    """What was decoded, when this sample was complete, of those that were not: tokens by index, as
    far as known. If they are cancelled now, this is what they cost."""
    raw: dict[str, Any] = Field(default_factory=dict)
    """The upstream's own choice object, for whoever has to give it back as it was."""
    answer: dict[str, Any] = Field(default_factory=dict)
    """What else the upstream's answer had, as far as it was known when this sample was complete:
    fields beside OpenAI's common ones, and in ``usage`` what is not a plain count."""


class Policy(Protocol):
    """Samples candidate actions from a state."""

    name: str

    def sample(
        self, state: Sequence[Message], n: int, sampling: Sampling, *, session: str | None = None
    ) -> AsyncGenerator[Sample, None]:
        """Yield n samples, each when it is complete, in order of completion. Closing the generator
        cancels what is still being decoded. ``session`` keeps calls of one trajectory on one
        replica.

        Raises: ``ContextTooLong``, ``PolicyError`` (nothing could be sampled at all).
        """
        ...


@dataclass(frozen=True)
class Score:
    """What a critic says of one action."""

    q: float
    """Q(state, action) in [0, 1]."""
    spread: float | None = None
    """How uncertain that is, as a standard deviation: among the members of an ensemble, or of the
    mean of a judge's votes. ``None`` where the critic gives one number and knows no better."""


class Critic(Protocol):
    """Gives Q(state, action) in [0, 1]."""

    name: str
    every_turn: bool
    """Whether a finished trajectory is read at each of its turns. Selection needs the last one
    only, and a critic to which every turn is a prompt of its own may be set to read no more."""

    async def warm(self, state: Sequence[Message], *, session: str | None = None) -> None:
        """Read the bare state, so that scoring its candidates costs only their own tokens.
        Failing is no error: scoring will say."""
        ...

    async def score(
        self, state: Sequence[Message], actions: Sequence[Message], *, session: str | None = None
    ) -> list[Score]:
        """Each action in this state, in order. Raises: ``CriticError``."""
        ...

    async def score_turns(self, messages: Sequence[Message]) -> list[Score]:
        """Every agent turn of a whole history, oldest first. Raises: ``CriticError``."""
        ...


class Sandbox(Protocol):
    """One place where actions are executed. It cannot be rewound."""

    id: str
    """Names the live sandbox, for attaching to it again."""

    async def execute(
        self, command: str, *, action_id: str, timeout: float, cwd: str | None = None
    ) -> Observation:
        """Run ``command`` by ``sh`` and wait at most ``timeout`` seconds; then it is killed with
        all its children and ``timed_out`` is set. The same ``action_id`` again gives the recorded
        result and runs nothing; with another command it is ``SandboxLost``, since the sandbox is
        then not as its journal says. Raises: ``SandboxLost``, ``SandboxError``."""
        ...

    async def write(self, path: str, text: str) -> None:
        """Write a file, making its folders. Raises: ``SandboxLost``, ``SandboxError``."""
        ...

    async def read(self, path: str) -> str:
        """Text of a file. Raises: ``SandboxLost``, ``SandboxError`` (no such file)."""
        ...

    async def close(self) -> None:
        """Remove the sandbox and all that runs in it. Doing it twice is no error."""
        ...

    async def release(self) -> None:
        """Let go of the sandbox and leave it as it is, with what runs in it, for whoever attaches
        to it next. From here on this handle does nothing: a call under way is given up without
        stopping its command, and ``close`` removes nothing. Where the sandbox cannot outlive this
        process, it ends with it."""
        ...


Gone = Callable[[Mapping[str, str]], Awaitable[bool]]
"""Says of a sandbox's labels whether what it was started for is over."""


class SandboxProvider(Protocol):
    """Starts sandboxes, and finds live ones again."""

    def start(
        self, task: Task, *, labels: dict[str, str] | None = None
    ) -> AbstractAsyncContextManager[Sandbox]:
        """A fresh sandbox for ``task``: its files written, its set-up run. Leaving the context
        removes it, unless it was released. Raises: ``SandboxError``."""
        ...

    async def attach(self, sandbox_id: str) -> Sandbox:
        """The live sandbox of that id. Raises: ``SandboxLost`` if it is gone."""
        ...

    async def reap(self, gone: Gone | None = None) -> dict[str, Mapping[str, str]]:
        """Remove sandboxes that ended, whose lifetime is over, or of whose labels ``gone`` is true;
        what was removed, by id, with its labels. What cannot be reached is left for the next time.
        Sandboxes that other processes started are found too."""
        ...


class Journal(Protocol):
    """The append-only record of one run: the truth of it."""

    async def append(self, kind: str, **data: Any) -> None:
        """Add one entry (JSON-able values). Raises: ``JournalError``."""
        ...

    async def entries(self) -> list[dict[str, Any]]:
        """All entries, oldest first; each a dict with ``kind``, ``at`` (Unix time,
        seconds) and the data appended."""
        ...
