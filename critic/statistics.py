"""Success, compared honestly. Knows nothing of where outcomes come from.

Tasks are the unit: attempts at one task are not independent of each other, so intervals come from a
hierarchical bootstrap that resamples tasks first and attempts within them second. Shapes: an
*outcome table* is (tasks, attempts) of 0 or 1; a *score table* beside it has the same shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from math import comb
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel

Table = NDArray[np.float64]
Statistic = Callable[..., float]
Drawn = Literal["attempts", "seeds", "tasks"]


class Estimate(BaseModel):
    """A value with its interval."""

    value: float
    low: float
    high: float
    """Both NaN where there is no interval: of one task alone, nothing says how tasks differ."""

    def between(self, shown: Callable[[float], str]) -> str:
        """``46.2 to 57.0``, each end as it is ``shown``."""
        known = not (math.isnan(self.low) or math.isnan(self.high))
        return f"{shown(self.low)} to {shown(self.high)}" if known else "no interval"


def table(rows: ArrayLike) -> Table:
    """Check an outcome or score table. Raises: ``ValueError`` if it is not (tasks, attempts)."""
    array = np.asarray(rows, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"expected (tasks, attempts), at least one of each; got {array.shape}")
    return array


def success(outcomes: ArrayLike) -> float:
    """Mean over tasks of the mean over attempts: pass@1, and random-of-N.

    >>> success([[1, 0], [0, 0]])
    0.25
    """
    return float(table(outcomes).mean())


def pass_at(outcomes: ArrayLike, n: int) -> float:
    """Probability that at least one of n attempts, drawn without replacement, succeeds: the oracle
    of n. The unbiased estimator of Chen et al. 2021.

    >>> pass_at([[1, 0], [0, 0]], 2)
    0.5
    """
    array = table(outcomes)
    total = array.shape[1]
    _check_n(n, total)
    failures = total - array.sum(axis=1)
    missed = [comb(int(f), n) / comb(total, n) for f in failures]
    return float(1 - np.mean(missed))


def best_of(outcomes: ArrayLike, scores: ArrayLike, n: int) -> float:
    """Expected success of the highest-scored of n attempts drawn without replacement: the mean of
    ``best_of_each``.

    >>> best_of([[1, 0]], [[0.9, 0.1]], 2)
    1.0
    """
    return float(best_of_each(outcomes, scores, n).mean())


def best_of_each(outcomes: ArrayLike, scores: ArrayLike, n: int) -> Table:
    """``best_of`` of every task, (tasks,). Exact: the j-th best of M is the best of the draw with
    probability C(M-j, n-1) / C(M, n). Attempts of equal score share their probability, so their
    order in the table does not matter. Raises: ``ValueError`` for tables of different shapes, or n
    outside 1 to the number of attempts.
    """
    array, score = table(outcomes), table(scores)
    if array.shape != score.shape:
        raise ValueError(f"outcomes {array.shape} and scores {score.shape} differ in shape")
    total = array.shape[1]
    _check_n(n, total)
    chance = np.array([comb(total - j, n - 1) / comb(total, n) for j in range(1, total + 1)])
    return np.array([_expected(a, s, chance) for a, s in zip(array, score, strict=True)])


def _expected(outcomes: Table, scores: Table, chance: Table) -> float:
    order = np.argsort(-scores, kind="stable")
    _, group, sizes = np.unique(-scores[order], return_inverse=True, return_counts=True)
    shared = np.bincount(group, weights=chance) / sizes
    return float((outcomes[order] * shared[group]).sum())


def gap_recovered(outcomes: ArrayLike, scores: ArrayLike, n: int) -> float:
    """Share of the way from a random attempt to the oracle that selection by score goes.
    NaN where there is no gap."""
    random, oracle = success(outcomes), pass_at(outcomes, n)
    if oracle == random:
        return float("nan")
    return (best_of(outcomes, scores, n) - random) / (oracle - random)


def bootstrap(
    statistic: Statistic,
    *tables: ArrayLike,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    drawn: Drawn = "attempts",
) -> Estimate:
    """Value and percentile interval of ``statistic(*tables)``.

    All tables are resampled by the same tasks, so comparisons are paired. ``drawn`` says what is
    resampled with them. ``attempts``: those of each task, in tables of the same number of attempts
    the same ones, so that scores stay with their outcomes. ``seeds``: columns, the same ones for
    all tasks, since all share a seed (of few seeds that gives less than their whole variance).
    ``tasks``: nothing more, for statistics such as the best of all N, which drawing an attempt
    twice would bias.

    One task alone has no interval. Raises: ``ValueError`` if the tables have different numbers of
    tasks, or of seeds.
    """
    arrays = [table(t) for t in tables]
    tasks = {a.shape[0] for a in arrays}
    if len(tasks) != 1:
        raise ValueError(f"tables of different numbers of tasks: {sorted(tasks)}")
    [count] = tasks
    rng = np.random.default_rng(seed)
    if count == 1:
        return Estimate(value=statistic(*arrays), low=math.nan, high=math.nan)
    values = np.empty(draws)
    for draw in range(draws):
        rows = rng.integers(count, size=count)
        again = [a[rows] for a in arrays]
        if drawn == "attempts":
            again = _resample_attempts(again, rng)
        elif drawn == "seeds":
            again = _resample_seeds(again, rng)
        values[draw] = statistic(*again)
    tail = (1 - level) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return Estimate(value=statistic(*arrays), low=float(low), high=float(high))


def _resample_seeds(arrays: list[Table], rng: np.random.Generator) -> list[Table]:
    [width] = {a.shape[1] for a in arrays}
    columns = rng.integers(width, size=width)
    return [a[:, columns] for a in arrays]


def _resample_attempts(arrays: list[Table], rng: np.random.Generator) -> list[Table]:
    columns = {
        width: rng.integers(width, size=(arrays[0].shape[0], width))
        for width in {a.shape[1] for a in arrays}
    }
    return [np.take_along_axis(a, columns[a.shape[1]], axis=1) for a in arrays]


def best_interval(
    outcomes: ArrayLike,
    scores: ArrayLike,
    n: int,
    *,
    relative_to: ArrayLike | None = None,
    **options: Any,
) -> Estimate:
    """``best_of`` with its interval; with ``relative_to``, as a ratio to the success of those
    outcomes over the same tasks. Attempts are resampled for n = 1 only: what is expected of n
    draws from a task's attempts cannot be had from attempts that were drawn twice. ``options`` and
    errors are those of ``bootstrap`` and ``best_of_each``.
    """
    each = outcomes if n == 1 else best_of_each(outcomes, scores, n)[:, None]
    common: dict[str, Any] = {"drawn": "attempts" if n == 1 else "tasks", **options}
    if relative_to is None:
        return bootstrap(success, each, **common)
    return bootstrap(_ratio, each, relative_to, **common)


def _ratio(better: ArrayLike, worse: ArrayLike) -> float:
    return success(better) / success(worse) if success(worse) else float("nan")


def difference(better: ArrayLike, worse: ArrayLike, **options: Any) -> Estimate:
    """Paired difference of success over the same tasks, with its interval."""
    return bootstrap(lambda a, b: success(a) - success(b), better, worse, **options)


def _check_n(n: int, total: int) -> None:
    if not 1 <= n <= total:
        raise ValueError(f"n is {n}; there are {total} attempts")
