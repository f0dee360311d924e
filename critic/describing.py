"""What is in a data set of trajectories. Knows nothing of tokens or networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from pydantic import BaseModel

from critic.trajectory import Trajectory

_SHARES = {"least": 0.0, "quarter": 0.25, "half": 0.5, "three quarters": 0.75, "most": 1.0}


class Group(BaseModel):
    """Some of the trajectories."""

    trajectories: int = 0
    solved: int = 0
    failed: int = 0
    unrewarded: int = 0

    def add(self, trajectory: Trajectory) -> None:
        self.trajectories += 1
        if trajectory.reward is None:
            self.unrewarded += 1
        elif trajectory.reward > 0.5:
            self.solved += 1
        else:
            self.failed += 1

    @property
    def rate(self) -> float:
        """Of those that have a reward; NaN where none has."""
        known = self.solved + self.failed
        return self.solved / known if known else float("nan")


class Description(BaseModel):
    """A data set in numbers."""

    all: Group
    tasks: int
    mixed_tasks: int
    """Tasks with a success and a failure: only they teach what makes the difference."""
    policies: dict[str, Group]
    exit_statuses: dict[str, Group]
    turns: dict[str, float]
    """Quantiles of agent turns a trajectory."""
    characters: dict[str, float]
    """Quantiles of the text of all messages."""


def describe(trajectories: Iterable[Trajectory]) -> Description:
    """One pass; in memory it keeps two numbers a trajectory, and two a task."""
    everything = Group()
    policies: dict[str, Group] = {}
    statuses: dict[str, Group] = {}
    solved, failed = Counter[str](), Counter[str]()
    turns: list[int] = []
    characters: list[int] = []
    tasks: set[str] = set()
    for trajectory in trajectories:
        status = trajectory.exit_status or "unknown"
        groups = (
            everything,
            policies.setdefault(trajectory.policy, Group()),
            statuses.setdefault(status, Group()),
        )
        for group in groups:
            group.add(trajectory)
        tasks.add(trajectory.task_id)
        if trajectory.reward is not None:
            (solved if trajectory.reward > 0.5 else failed)[trajectory.task_id] += 1
        turns.append(len(trajectory.steps))
        characters.append(sum(len(message.text) for message in trajectory.messages))
    return Description(
        all=everything,
        tasks=len(tasks),
        mixed_tasks=len(solved.keys() & failed.keys()),
        policies=policies,
        exit_statuses=statuses,
        turns=_quantiles(turns),
        characters=_quantiles(characters),
    )


def _quantiles(values: list[int]) -> dict[str, float]:
    if not values:
        return {}
    return {name: float(np.quantile(values, share)) for name, share in _SHARES.items()}
