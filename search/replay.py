"""From the journal of a run back to its trajectories. Knows nothing of how the run goes on.

This file is the reader of what ``run.py`` and ``rollout.py`` write: the kinds of entry are
``trajectory_started``, ``sandbox_started``, ``decided``, ``observed``, ``trajectory_ended``; and
``retried``, which whoever asks for it writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pilotfish import Decision, Message, Observation, Step, Trajectory

Key = tuple[int, int]
"""Which of the N, and which try of it."""


@dataclass
class Begun:
    """A trajectory that has begun, and the sandbox that it lives in."""

    key: Key
    trajectory: Trajectory
    sandbox: str | None = None
    seconds: float = 0.0
    """For how long it has been executed, as far as its entries say."""
    resumed: bool = False
    """It began before this process had the run."""
    excused: bool = False
    """The run was tried again after it: if the infrastructure failed it, that counts no more."""
    began: float = 0.0
    """How long the run had been executed when it began, or had its sandbox: waiting for that is not
    its time."""


def replay(entries: Iterable[dict[str, Any]]) -> dict[Key, Begun]:
    """All trajectories of a journal, as far as they went, in the order of their keys:
    in what order entries of trajectories that go on at once reach the journal is chance."""
    begun: dict[Key, Begun] = {}
    by_id: dict[str, Begun] = {}
    for entry in entries:
        elapsed = float(entry.get("elapsed", 0.0))
        if entry["kind"] == "trajectory_started":
            trajectory = Trajectory.model_validate(entry["record"])
            key = (entry["slot"], entry["try"])
            by_id[trajectory.id] = begun[key] = Begun(key, trajectory, began=elapsed)
        elif entry["kind"] == "sandbox_started":
            one = begun[entry["slot"], entry["try"]]
            one.sandbox, one.began = entry["sandbox"], elapsed
        elif entry["kind"] in ("decided", "observed", "trajectory_ended"):
            one = by_id[entry["trajectory"]]
            one.seconds = elapsed - one.began
            _apply(one.trajectory, entry)
        elif entry["kind"] == "retried":
            for one in begun.values():
                one.excused = True
    return dict(sorted(begun.items()))


def _apply(trajectory: Trajectory, entry: dict[str, Any]) -> None:
    match entry["kind"]:
        case "decided":
            decision = Decision.model_validate(entry["decision"])
            trajectory.steps.append(Step(decision=decision))
        case "observed":
            _observed(trajectory.steps[entry["step"]], entry)
        case "trajectory_ended":
            _ended(trajectory, entry)


def _observed(step: Step, entry: dict[str, Any]) -> None:
    if entry["observation"] is not None:
        step.observation = Observation.model_validate(entry["observation"])
    step.replies = [Message.model_validate(reply) for reply in entry["replies"]]


def _ended(trajectory: Trajectory, entry: dict[str, Any]) -> None:
    trajectory.exit_status = entry["exit_status"]
    trajectory.exit_message = entry["exit_message"]
    trajectory.submission = entry.get("submission")  # journals of before have none of these
    trajectory.reward = entry["reward"]
    trajectory.regression_passed = entry.get("regression_passed")
    trajectory.generated_passed = entry.get("generated_passed")
    trajectory.seconds = entry["seconds"]
    spreads = entry.get("spreads") or [None] * len(trajectory.steps)
    # One that another ended may have been cut off behind a decision that it had not heard of yet.
    for step, q, spread in zip(trajectory.steps, entry["qs"], spreads, strict=False):
        step.decision.winner.q, step.decision.winner.spread = q, spread
