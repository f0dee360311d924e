"""The trajectory record: what is served, stored and trained on. Knows nothing of how it was made.

A *step* is one agent turn: the candidates that the policy proposed, the critic's Q for each, which
one was chosen and why, and the observation that executing it gave. A *trajectory* is the first
messages and then steps, up to an exit status and maybe a reward.
"""

from __future__ import annotations

import math
import uuid
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pilotfish.messages import Message

SCHEMA_VERSION: Literal[1] = 1

ExitStatus = Literal[
    "Submitted",
    "StepLimitExceeded",
    "TokenLimitExceeded",
    "TimeLimitExceeded",
    "ContextLimitExceeded",
    "FormatError",
    "PolicyError",
    "SandboxError",
    "SandboxLost",
    "InternalError",
    "Cancelled",
    "Pruned",
]
"""How a trajectory ended. ``Submitted`` is the only one that finished its task; ``PolicyError``,
``SandboxError``, ``SandboxLost`` and ``InternalError`` are failures of the infrastructure; the
others are the policy's own, or a decision of the search's."""

INFRASTRUCTURE_FAILURES = frozenset({"PolicyError", "SandboxError", "SandboxLost", "InternalError"})


class Usage(BaseModel):
    """Tokens. ``completion_tokens`` counts every candidate, not only the chosen one."""

    model_config = ConfigDict(extra="forbid")

    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
        )


class Candidate(BaseModel):
    """One sampled agent turn."""

    model_config = ConfigDict(extra="forbid")

    index: int = Field(ge=0)
    message: Message | None = None
    """The turn; ``None`` where the sample failed or was cancelled."""
    q: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    """Q(state, turn) in [0, 1]; ``None`` where it was not scored."""
    spread: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Standard deviation of Q, among an ensemble's members or of a judge's votes; ``None`` where
    the critic gives none."""
    logprob: float | None = None
    """Sum of the policy's token log-probabilities (nats); ``None`` where it gave none."""
    tokens: int = Field(default=0, ge=0)
    seconds: float | None = None
    """From asking the policy to the whole candidate."""
    finish_reason: str | None = None
    duplicate_of: int | None = None
    """Index of the earlier equal candidate whose score this one shares."""
    error: str | None = None

    @property
    def likelihood(self) -> float:
        """``logprob``, to order by: what gave none comes last."""
        return -math.inf if self.logprob is None else self.logprob

    @field_validator("message")
    @classmethod
    def _is_a_turn(cls, message: Message | None) -> Message | None:
        if message is not None and message.role != "assistant":
            raise ValueError(f"a candidate is an assistant's message; got one of {message.role}")
        return message


class Decision(BaseModel):
    """Which candidate was taken, and why."""

    model_config = ConfigDict(extra="forbid")

    candidates: list[Candidate]
    requested: int = Field(ge=1)
    """K: how many candidates were asked for."""
    chosen: int = Field(ge=0)
    """Index of the candidate that was taken."""
    reason: str
    """``only``, ``unanimous``, ``argmax``, ``softmax``, ``vote``, ``threshold``, ``deadline``, or,
    where the critic gave nothing, ``majority`` or ``most_probable``."""
    degraded: bool = False
    """True when it was decided with less than was asked for; ``notes`` say what was missing."""
    notes: list[str] = Field(default_factory=list)
    prompt_tokens: int = Field(default=0, ge=0)
    policy_seconds: float = 0.0
    """From asking the policy until its last candidate (or until the rest were cancelled)."""
    seconds: float = 0.0
    """The whole decision."""

    @model_validator(mode="after")
    def _has_what_was_chosen(self) -> Decision:
        if not any(c.index == self.chosen and c.message is not None for c in self.candidates):
            raise ValueError(f"chosen is {self.chosen}; there is no such candidate with a message")
        return self

    @property
    def winner(self) -> Candidate:
        return next(c for c in self.candidates if c.index == self.chosen)

    @property
    def message(self) -> Message:
        message = self.winner.message
        if message is None:
            raise ValueError(f"chosen candidate {self.chosen} has no message")
        return message

    @property
    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=sum(c.tokens for c in self.candidates),
        )


class Observation(BaseModel):
    """What executing an action gave."""

    model_config = ConfigDict(extra="forbid")

    output: str = ""
    """Standard output and error together, cut to the sandbox's bound."""
    exit_code: int | None = None
    """``None`` where the command was stopped at its time limit."""
    seconds: float = 0.0
    truncated: bool = False
    timed_out: bool = False


class Step(BaseModel):
    """One agent turn and its result. ``observation`` is ``None`` for the turn that ended it;
    ``replies`` are the messages that showed the observation to the agent: one for each tool call,
    or one in all."""

    model_config = ConfigDict(extra="forbid")

    decision: Decision
    observation: Observation | None = None
    replies: list[Message] = Field(default_factory=list)


class Trajectory(BaseModel):
    """One attempt at a task, whole."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = SCHEMA_VERSION
    id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    task_id: str
    policy: str
    critic: str | None = None
    slot: int = 0
    """Which of a run's N trajectories it is, or was an attempt at."""
    attempt: int = 0
    """0 for the first; 1, 2... for those made because the one before did not submit."""
    seed: int | None = None
    prefix: list[Message]
    """The messages before the first agent turn."""
    steps: list[Step] = Field(default_factory=list)
    exit_status: ExitStatus | None = None
    """``None`` while it goes on."""
    exit_message: str = ""
    submission: str | None = None
    """What it handed in (a patch, say), where that is known."""
    reward: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    """1 if the hidden tests passed, 0 if not, ``None`` if it was not evaluated."""
    regression_passed: int | None = Field(default=None, ge=0)
    """How many of the task's regression tests passed; ``None`` if they were not executed."""
    generated_passed: int | None = Field(default=None, ge=0)
    """How many of its generated tests passed."""
    started_at: float = 0.0
    """Unix time, seconds."""
    seconds: float = 0.0

    @property
    def submitted(self) -> bool:
        return self.exit_status == "Submitted"

    @property
    def messages(self) -> list[Message]:
        """The whole history, as the policy and the critic see it."""
        history = list(self.prefix)
        for step in self.steps:
            history.append(step.decision.message)
            history += step.replies
        return history

    @property
    def qs(self) -> list[float | None]:
        """Q of the turn that was taken, by step."""
        return [step.decision.winner.q for step in self.steps]

    @property
    def spreads(self) -> list[float | None]:
        """Spread of the Q of the turn that was taken, by step."""
        return [step.decision.winner.spread for step in self.steps]

    @property
    def last_q(self) -> float | None:
        return self.steps[-1].decision.winner.q if self.steps else None

    @property
    def last_spread(self) -> float | None:
        return self.steps[-1].decision.winner.spread if self.steps else None

    @property
    def usage(self) -> Usage:
        return sum((step.decision.usage for step in self.steps), Usage())
