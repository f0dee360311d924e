"""How good a critic is on trajectories that it has judged: at every share of the way, as a chooser
of one of N, and as a probability. Knows nothing of networks, files or pages.

Tasks are the unit: intervals resample tasks with all their trajectories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from critic.calibration import Isotonic, Platt, fit_isotonic, fit_platt
from critic.errors import CriticInputError
from critic.evaluation import Calibration as Curve
from critic.evaluation import auc, average_precision, brier, calibration, ece, ranked_right
from critic.hacking import Hacking, hacking
from critic.judged import Judged, by_task, calibrated
from critic.selecting import BestOf, best_of_n
from critic.splitting import fold_of
from critic.statistics import Estimate

Fit = Literal["platt", "isotonic"]
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
NS = (1, 2, 3, 5, 8, 10, 15)
DRAWS = 300
FOLDS = 5
FITS: dict[Fit, Callable[[Sequence[float], Sequence[float]], Platt | Isotonic]] = {
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}


class AtShare(BaseModel):
    """Q at the turn after this share of a trajectory's turns: one number a trajectory."""

    share: float
    auc: Estimate
    average_precision: Estimate
    within_task: Estimate
    """Ranking accuracy within tasks: over pairs of a success and a failure of one task."""
    ece: float
    brier: float
    q_of_solved: float
    q_of_failed: float


class Calibrated(BaseModel):
    """What a calibration does to Q at the last turn, measured on tasks it was not fitted on."""

    kind: Fit
    ece_before: float
    ece_after: float
    brier_before: float
    brier_after: float
    curve_after: Curve


class Quality(BaseModel):
    """All of it."""

    trajectories: int
    left_out: int
    """Made with more candidates than one: only value hacking looks at them."""
    tasks: int
    mixed_tasks: int
    """That have a success and a failure: only they say anything about ranking within tasks."""
    solved: float
    by_share: list[AtShare]
    best_of: list[BestOf]
    curve: Curve
    """Of Q at the last turn."""
    calibrated: list[Calibrated]
    hacking: Hacking | None
    """Where there are trajectories with and without lookahead."""


def quality(judged: Sequence[Judged], *, ns: Sequence[int] = NS, draws: int = DRAWS) -> Quality:
    """Measure ``judged``: all but value hacking on the policy's own trajectories, where there are
    any, since those under lookahead were chosen by a critic already.

    Raises: ``CriticInputError`` without a trajectory.
    """
    if not judged:
        raise CriticInputError("no trajectory in the data has a reward")
    alone = own(judged)
    tasks = by_task(alone)
    last, won = _last(alone)
    return Quality(
        trajectories=len(alone),
        left_out=len(judged) - len(alone),
        tasks=len(tasks),
        mixed_tasks=sum(len({one.won for one in own}) == 2 for own in tasks.values()),
        solved=float(np.mean(won)),
        by_share=[_at_share(list(tasks.values()), share, draws) for share in SHARES],
        best_of=best_of_n(alone, ns, draws=draws),
        curve=calibration(last, won),
        calibrated=[c for kind in FITS if (c := cross_fitted(alone, kind)) is not None],
        hacking=hacking(judged, draws=draws),
    )


def own(judged: Sequence[Judged]) -> list[Judged]:
    """The policy's own trajectories, where there are any."""
    return [one for one in judged if one.k == 1] or list(judged)


def fit_calibration(judged: Sequence[Judged], kind: Fit) -> Platt | Isotonic:
    """The calibration of Q at the last turn, on the policy's ``own``: what selection compares and
    abstains by.

    Raises: ``CriticInputError`` without a success and a failure.
    """
    last, won = _last(own(judged))
    try:
        return FITS[kind](last, [float(one) for one in won])
    except ValueError as error:
        raise CriticInputError(str(error)) from error


def cross_fitted(judged: Sequence[Judged], kind: Fit) -> Calibrated | None:
    """What the calibration does, each task measured by one that was fitted on other tasks; ``None``
    where there are too few."""
    after: list[Judged] = []
    for fold in range(FOLDS):
        inside = [one for one in judged if fold_of(one.task_id, FOLDS) == fold]
        outside = [one for one in judged if fold_of(one.task_id, FOLDS) != fold]
        if not inside:
            continue
        try:
            after += calibrated(inside, fit_calibration(outside, kind).apply)
        except CriticInputError:
            return None
    before_q, before_won = _last(judged)
    after_q, after_won = _last(after)
    return Calibrated(
        kind=kind,
        ece_before=ece(before_q, before_won),
        ece_after=ece(after_q, after_won),
        brier_before=brier(before_q, before_won),
        brier_after=brier(after_q, after_won),
        curve_after=calibration(after_q, after_won),
    )


def _last(judged: Sequence[Judged]) -> tuple[list[float], list[bool]]:
    return [one.last_q for one in judged], [one.won for one in judged]


def _at_share(tasks: Sequence[Sequence[Judged]], share: float, draws: int) -> AtShare:
    q = [np.array([one.q_at(share) for one in own]) for own in tasks]
    won = [np.array([one.won for one in own]) for own in tasks]
    every_q, every_won = np.concatenate(q), np.concatenate(won)
    right = np.array([ranked_right(list(a), list(b)) for a, b in zip(q, won, strict=True)])

    def over(measure: Callable[..., float]) -> Callable[[NDArray[np.int64]], float]:
        return lambda rows: measure(
            np.concatenate([q[row] for row in rows]), np.concatenate([won[row] for row in rows])
        )

    def within(rows: NDArray[np.int64]) -> float:
        found, pairs = right[rows].sum(axis=0)
        return float(found / pairs) if pairs else float("nan")

    return AtShare(
        share=share,
        auc=_interval(over(auc), len(tasks), draws),
        average_precision=_interval(over(average_precision), len(tasks), draws),
        within_task=_interval(within, len(tasks), draws, telling=int((right[:, 1] > 0).sum())),
        ece=ece(every_q, every_won),
        brier=brier(every_q, every_won),
        q_of_solved=_mean(every_q[every_won]),
        q_of_failed=_mean(every_q[~every_won]),
    )


def _interval(
    measure: Callable[[NDArray[np.int64]], float],
    tasks: int,
    draws: int,
    *,
    telling: int | None = None,
) -> Estimate:
    """``telling``: how many of the tasks say anything, ``None`` for all; one has no interval."""
    rng = np.random.default_rng(0)
    values = [measure(rng.integers(tasks, size=tasks)) for _ in range(draws)]
    enough = (tasks if telling is None else telling) > 1
    known = [value for value in values if enough and not np.isnan(value)]
    low, high = np.quantile(known, [0.025, 0.975]) if known else (np.nan, np.nan)
    return Estimate(value=measure(np.arange(tasks)), low=float(low), high=float(high))


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")
