"""Recorded trajectories and decisions judged again by another critic, without policy or sandbox.
Knows nothing of networks.

Of whole trajectories the change in success is *measured*: which of N is taken changes, what became
of each does not. Of decisions it is *estimated*: as long as the other critic would have taken what
was executed, the outcome is known; from the first step at which it would not, the Q that the log
has of its choice stands for the outcome, calibrated on what was executed. One critic chooses and
another values, as in double Q-learning (van Hasselt, 2010): by its own Q the choice would look
better than it is, being the highest. What was executed was the highest in the log, so the estimate
leans against change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel

from critic.calibration import fit_isotonic
from critic.judged import Judged, by_task
from critic.quality import FOLDS
from critic.selecting import chosen_by_score, column
from critic.splitting import fold_of
from critic.statistics import Estimate, bootstrap, difference, pass_at, success


class Reselected(BaseModel):
    """Success of the choice of N by either critic."""

    n: int
    tasks: int
    before: Estimate
    after: Estimate
    change: Estimate
    """After less before, paired by task."""
    oracle: float


def reselect(
    before: Sequence[Judged], after: Sequence[Judged], ns: Sequence[int], *, draws: int = 2000
) -> list[Reselected]:
    """For each N that some task has trajectories for. Those that only one critic has judged, and
    further attempts, are left out."""
    common = {o.id for o in before if o.attempt == 0} & {o.id for o in after}
    old = by_task(one for one in before if one.id in common)
    new = by_task(one for one in after if one.id in common)
    rows = []
    for n in ns:
        tasks = [task for task, own in old.items() if len(own) >= n]
        if not tasks:
            continue
        first = column([chosen_by_score(old[task], n) for task in tasks])
        second = column([chosen_by_score(new[task], n) for task in tasks])
        options: dict[str, Any] = {"draws": draws, "drawn": "tasks"}
        rows.append(
            Reselected(
                n=n,
                tasks=len(tasks),
                before=bootstrap(success, first, **options),
                after=bootstrap(success, second, **options),
                change=difference(second, first, **options),
                oracle=float(np.mean([pass_at([[o.won for o in old[t]]], n) for t in tasks])),
            )
        )
    return rows


@dataclass(frozen=True)
class Reconsidered:
    """One step. Both Q are those of the log."""

    same: bool
    """Whether it takes what was executed."""
    q_of_executed: float
    q_of_choice: float


@dataclass(frozen=True)
class Redecided:
    """One trajectory under lookahead, whose steps another critic has judged."""

    task_id: str
    won: bool
    steps: tuple[Reconsidered, ...]

    @property
    def deviation(self) -> Reconsidered | None:
        """The first step at which it takes another candidate."""
        return next((step for step in self.steps if not step.same), None)


class Decisions(BaseModel):
    """What another critic would have decided, and what is estimated to have come of it."""

    trajectories: int
    tasks: int
    steps: int
    same: float
    """Share of steps at which it takes what was executed."""
    followed: float
    """Share of trajectories that it would have gone all the way."""
    before: Estimate
    """Success, as recorded."""
    after: Estimate
    """Success, estimated."""
    change: Estimate
    """Paired by task."""


def redecide(redecided: Iterable[Redecided], *, draws: int = 2000) -> Decisions | None:
    """``None`` without a trajectory, or where too few are known to calibrate by."""
    known = list(redecided)
    expected = _expected(known) if known else None
    if expected is None:
        return None
    tasks = sorted({one.task_id for one in known})
    won: dict[str, list[float]] = {task: [] for task in tasks}
    would: dict[str, list[float]] = {task: [] for task in tasks}
    for one, value in zip(known, expected, strict=True):
        won[one.task_id].append(float(one.won))
        would[one.task_id].append(value)
    first = column([float(np.mean(won[task])) for task in tasks])
    second = column([float(np.mean(would[task])) for task in tasks])
    steps = [step.same for one in known for step in one.steps]
    options: dict[str, Any] = {"draws": draws, "drawn": "tasks"}
    return Decisions(
        trajectories=len(known),
        tasks=len(tasks),
        steps=len(steps),
        same=float(np.mean(steps)),
        followed=float(np.mean([one.deviation is None for one in known])),
        before=bootstrap(success, first, **options),
        after=bootstrap(success, second, **options),
        change=difference(second, first, **options),
    )


def _expected(known: Sequence[Redecided]) -> list[float] | None:
    """Success of each, as the other critic would have decided: seen, or by the log's Q of its
    choice where it first deviates, calibrated on other tasks."""
    folds = [fold_of(one.task_id, FOLDS) for one in known]
    values = [float(one.won) for one in known]
    for fold in set(folds):
        pairs = [
            (step.q_of_executed, float(one.won))
            for one, own in zip(known, folds, strict=True)
            if own != fold
            for step in one.steps
        ]
        try:
            fit = fit_isotonic(*zip(*pairs, strict=True)) if pairs else None
        except ValueError:
            fit = None
        if fit is None:
            return None
        for i, one in enumerate(known):
            if folds[i] == fold and (deviation := one.deviation) is not None:
                values[i] = fit.apply(deviation.q_of_choice)
    return values
