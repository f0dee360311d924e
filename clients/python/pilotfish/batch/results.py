"""What became of a task, and of all: records and numbers. Knows no files and no service."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pilotfish.api import RunView
from pilotfish.trajectory import INFRASTRUCTURE_FAILURES, Trajectory, Usage

Outcome = Literal["done", "infrastructure", "refused"]
"""``done``: the policy had its turn, whatever came of it. ``infrastructure``: it had not; the task
is run again. ``refused``: the service takes no run of it."""
_NOT_THE_POLICYS = INFRASTRUCTURE_FAILURES | {"Cancelled", None}


class Attempt(BaseModel):
    """One trajectory of a task's run, without its steps."""

    model_config = ConfigDict(extra="forbid")

    number: int
    slot: int
    exit_status: str | None
    reward: float | None
    last_q: float | None
    steps: int
    usage: Usage
    seconds: float

    @classmethod
    def of(cls, number: int, trajectory: Trajectory) -> Attempt:
        return cls(
            number=number,
            slot=trajectory.slot,
            exit_status=trajectory.exit_status,
            reward=trajectory.reward,
            last_q=trajectory.last_q,
            steps=len(trajectory.steps),
            usage=trajectory.usage,
            seconds=trajectory.seconds,
        )

    @property
    def counts(self) -> bool:
        """Whether it did anything, and was not the infrastructure's failure."""
        return self.steps > 0 and self.exit_status not in INFRASTRUCTURE_FAILURES


class Result(BaseModel):
    """What became of one task."""

    model_config = ConfigDict(extra="forbid")

    task_id: str
    outcome: Outcome
    run_id: str | None = None
    status: str | None = None
    """The run's."""
    model: str = ""
    selected: int | None = None
    reason: str = ""
    error: str | None = None
    attempts: list[Attempt] = Field(default_factory=list)
    usage: Usage = Field(default_factory=Usage)
    seconds: float = 0.0
    """From the run's making to its end."""
    submission: str | None = None
    """Of the selected attempt."""

    @property
    def reward(self) -> float | None:
        """Of the selected attempt: 0 where none was selected though some were evaluated; ``None``
        where nothing was."""
        if self.selected is not None:
            return self.attempts[self.selected].reward
        return 0.0 if self.rewards else None

    @property
    def rewards(self) -> list[float]:
        """Of what each of the N came to, those that were evaluated."""
        if self.outcome != "done":
            return []
        slots: dict[int, list[Attempt]] = {}
        for attempt in self.attempts:
            slots.setdefault(attempt.slot, []).append(attempt)
        ends = [([a for a in tries if a.counts] or tries)[-1] for tries in slots.values()]
        return [end.reward for end in ends if end.reward is not None]

    @property
    def exit_status(self) -> str:
        """Of the selected attempt; without one, of the last, or what became of the run."""
        if self.selected is not None:
            return str(self.attempts[self.selected].exit_status)
        if self.attempts and self.attempts[-1].exit_status:
            return self.attempts[-1].exit_status
        return {"infrastructure": "InfrastructureFailure", "refused": "Refused"}.get(
            self.outcome, "NotSelected"
        )


def result_of(run: RunView, attempts: list[Attempt], submission: str | None) -> Result:
    """Of a run that has ended. It was not the policy's if it was cancelled, if the service failed
    it, or if of all its attempts the infrastructure did."""
    all_lost = all(attempt.exit_status in _NOT_THE_POLICYS for attempt in attempts)
    lost = run.selected is None and (all_lost or (run.status == "failed" and run.error is not None))
    return Result(
        task_id=run.task_id,
        outcome="infrastructure" if run.status == "cancelled" or lost else "done",
        run_id=run.id,
        status=run.status,
        model=run.policy,
        selected=run.selected,
        reason=run.reason,
        error=run.error,
        attempts=attempts,
        usage=sum((attempt.usage for attempt in attempts), Usage()),
        seconds=max(0.0, (run.ended_at or run.created_at) - run.created_at),
        submission=submission,
    )


class Share(BaseModel):
    """A share of tasks, with its 95 % interval (Wilson's)."""

    value: float
    low: float
    high: float
    of: int


def wilson(successes: float, total: int, z: float = 1.959964) -> Share | None:
    """``None`` of nothing.

    >>> share = wilson(8, 10)
    >>> round(share.low, 3), round(share.high, 3)
    (0.49, 0.943)
    """
    if total == 0:
        return None
    p, square = successes / total, z * z / total
    middle = (p + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(p * (1 - p) / total + square / (4 * total))
    low = 0.0 if successes == 0 else middle - half  # exactly
    high = 1.0 if successes == total else middle + half
    return Share(value=p, low=low, high=high, of=total)


class Summary(BaseModel):
    """A batch in numbers. Tasks are the unit."""

    tasks: int = 0
    """That have a result."""
    done: int = 0
    infrastructure: int = 0
    refused: int = 0
    evaluated: int = 0
    """Done, with hidden tests that were run."""
    resolved: Share | None = None
    """Whose selected attempt passed, of those evaluated; an abstention did not."""
    oracle: Share | None = None
    """Of which any of the N passed: pass@N."""
    random: float | None = None
    """Mean over tasks of the share of the N that passed: one of N, at random."""
    submitted: int = 0
    usage: Usage = Field(default_factory=Usage)
    seconds: float = 0.0
    """Of all runs, one after another."""
    exit_statuses: dict[str, int] = Field(default_factory=dict)


class Tally:
    """Adds up results, one at a time."""

    def __init__(self) -> None:
        self._outcomes: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._usage = Usage()
        self._seconds = 0.0
        self._evaluated = self._submitted = 0
        self._resolved = self._oracle = self._random = 0.0

    def add(self, result: Result) -> None:
        self._outcomes[result.outcome] += 1
        self._statuses[result.exit_status] += 1
        self._usage += result.usage
        self._seconds += result.seconds
        self._submitted += result.submission is not None
        rewards, reward = result.rewards, result.reward
        if result.outcome == "done" and rewards and reward is not None:
            self._evaluated += 1
            self._resolved += reward >= 1
            self._oracle += max(rewards) >= 1
            self._random += sum(r >= 1 for r in rewards) / len(rewards)

    @property
    def summary(self) -> Summary:
        n = self._evaluated
        return Summary(
            tasks=sum(self._outcomes.values()),
            done=self._outcomes["done"],
            infrastructure=self._outcomes["infrastructure"],
            refused=self._outcomes["refused"],
            evaluated=n,
            resolved=wilson(self._resolved, n),
            oracle=wilson(self._oracle, n),
            random=self._random / n if n else None,
            submitted=self._submitted,
            usage=self._usage,
            seconds=round(self._seconds, 3),
            exit_statuses=dict(sorted(self._statuses.items())),
        )


def summary_of(results: Iterable[Result]) -> Summary:
    tally = Tally()
    for result in results:
        tally.add(result)
    return tally.summary
