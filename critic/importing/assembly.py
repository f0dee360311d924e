"""From chat messages to a trajectory: what every format comes to. Knows no format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, get_args

from pilotfish import Candidate, Decision, Message
from pilotfish.trajectory import ExitStatus, Step, Trajectory

UNKNOWN_POLICY = "unknown"


class NotATrajectory(ValueError):
    """The row cannot be made into a trajectory; the text says why."""


def assemble(
    messages: Sequence[Message],
    *,
    task_id: str,
    policy: str | None,
    reward: float | None,
    exit_status: str | None = None,
    exit_message: str = "",
    submission: str | None = None,
    trajectory_id: str | None = None,
) -> Trajectory:
    """A trajectory of one candidate a step, which nobody scored.

    ``exit_status`` is the source's own word; it is kept in ``exit_message`` where ours differs.
    Without a ``trajectory_id``, equal messages of a task are one trajectory.
    Raises: ``NotATrajectory`` without a task or an agent turn.
    """
    if not task_id:
        raise NotATrajectory("it names no task")
    turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
    if not turns:
        raise NotATrajectory("it has no agent turn")
    ends = [*turns[1:], len(messages)]
    steps = [
        Step(decision=_only(messages[turn]), replies=list(messages[turn + 1 : end]))
        for turn, end in zip(turns, ends, strict=True)
    ]
    known = exit_status_of(exit_status)
    told = exit_message or ("" if exit_status in (known, None) else str(exit_status))
    return Trajectory(
        id=trajectory_id or _digest(task_id, messages),
        task_id=task_id,
        policy=policy or UNKNOWN_POLICY,
        prefix=list(messages[: turns[0]]),
        steps=steps,
        exit_status=known,
        exit_message=told,
        submission=submission or None,
        reward=reward,
    )


def _digest(task_id: str, messages: Sequence[Message]) -> str:
    """An id for a trajectory whose source gives none: of what was said, so that a row that comes
    twice is known, and an import that is made again gives the same ids."""
    said = json.dumps([task_id, [m.wire() for m in messages]], sort_keys=True, default=str)
    return hashlib.blake2b(said.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _only(message: Message) -> Decision:
    return Decision(
        candidates=[Candidate(index=0, message=message)], requested=1, chosen=0, reason="only"
    )


_STATUSES: dict[str, ExitStatus] = {
    "submitted": "Submitted",
    "submit": "Submitted",
    "finished": "Submitted",
    "completed": "Submitted",
    "exit_context": "ContextLimitExceeded",
    "contextwindowexceedederror": "ContextLimitExceeded",
    "exit_cost": "TokenLimitExceeded",
    "exit_total_cost": "TokenLimitExceeded",
    "limitsexceeded": "StepLimitExceeded",
    "max_iterations_reached": "StepLimitExceeded",
    "exit_total_execution_time": "TimeLimitExceeded",
    "exit_command_timeout": "TimeLimitExceeded",
    "timelimitexceeded": "TimeLimitExceeded",
    "exit_format": "FormatError",
    "repeatedformaterror": "FormatError",
    "exit_api": "PolicyError",
    "exit_environment_error": "SandboxError",
}
"""By the words that SWE-agent, mini-swe-agent and OpenHands use, lower case."""
_OURS: dict[str, ExitStatus] = {status.lower(): status for status in get_args(ExitStatus)}


def exit_status_of(told: str | None) -> ExitStatus | None:
    """Ours, of another scaffold's word; ``None`` where it is not known.

    SWE-agent says ``submitted (exit_context)`` of one that ran into a limit and was submitted as it
    was: the limit is why it ended.

    >>> exit_status_of("submitted (exit_context)")
    'ContextLimitExceeded'
    """
    word = (told or "").strip().lower()
    if word.startswith("submitted (") and word.endswith(")"):
        word = word[len("submitted (") : -1]
    return _STATUSES.get(word) or _OURS.get(word)


def message_of(fields: dict[str, Any]) -> Message:
    """A message of OpenAI's shape. Fields that are empty are left out: Parquet has all in each.

    Raises: ``pydantic.ValidationError``.
    """
    kept = {name: value for name, value in fields.items() if value not in (None, [], "")}
    kept.setdefault("content", fields.get("content"))
    return Message.model_validate(kept)
