"""Success of choosing one of N recorded trajectories of a task: by the critic, at random, by
majority, by one who knows. Knows nothing of where Q comes from.

Tasks may have different numbers of trajectories: at N, those count that have N. Each value is the
expectation over all draws of N from a task's trajectories (of the majority, over some draws), and
each interval resamples tasks.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from critic.judged import Judged, by_task
from critic.statistics import Estimate, best_of_each, bootstrap, difference, pass_at, success

DRAWS = 300
"""Of N from a task's trajectories, for the majority."""


class BestOf(BaseModel):
    """Success at one N, each with its interval."""

    n: int
    tasks: int
    """That have N trajectories."""
    critic: Estimate
    random: Estimate
    majority: Estimate
    oracle: Estimate
    over_random: Estimate
    """Critic less random, paired by task."""
    over_majority: Estimate
    gap_recovered: float
    """Share of the way from random to the oracle; NaN where there is none."""


def best_of_n(judged: Sequence[Judged], ns: Sequence[int], *, draws: int = 2000) -> list[BestOf]:
    """One row for each of ``ns`` that any task has so many trajectories for.

    Further attempts of a trajectory that did not submit are left out: they are not draws.
    """
    tasks = by_task(one for one in judged if one.attempt == 0)
    return [row for n in ns if (row := _row(tasks, n, draws)) is not None]


def _row(tasks: Mapping[str, list[Judged]], n: int, draws: int) -> BestOf | None:
    enough = [own for own in tasks.values() if len(own) >= n]
    if not enough:
        return None
    columns = {
        "critic": column([chosen_by_score(own, n) for own in enough]),
        "random": column([success([[one.won for one in own]]) for own in enough]),
        "majority": column([chosen_by_majority(own, n) for own in enough]),
        "oracle": column([pass_at([[one.won for one in own]], n) for own in enough]),
    }
    found = {
        name: bootstrap(success, values, draws=draws, drawn="tasks")
        for name, values in columns.items()
    }
    gap = found["oracle"].value - found["random"].value
    options: dict[str, Any] = {"draws": draws, "drawn": "tasks"}
    return BestOf(
        n=n,
        tasks=len(enough),
        **found,
        over_random=difference(columns["critic"], columns["random"], **options),
        over_majority=difference(columns["critic"], columns["majority"], **options),
        gap_recovered=(found["critic"].value - found["random"].value) / gap
        if n > 1 and gap
        else float("nan"),
    )


def chosen_by_score(own: Sequence[Judged], n: int) -> float:
    """Expected success of the highest score of n of one task's trajectories."""
    return float(best_of_each([[one.won for one in own]], [[one.score for one in own]], n)[0])


def chosen_by_majority(own: Sequence[Judged], n: int, *, seed: int = 0) -> float:
    """Expected success of the most frequent answer of n of one task's trajectories, submitted ones
    first; equally frequent ones share the choice."""
    if n == 1:
        return success([[one.won for one in own]])
    whole = comb(len(own), n) == 1
    rng = random.Random(f"{seed}/{own[0].task_id}/{n}")
    draws = [own] if whole else [rng.sample(own, n) for _ in range(DRAWS)]
    return float(np.mean([_majority(draw) for draw in draws]))


def _majority(draw: Sequence[Judged]) -> float:
    able = [one for one in draw if one.submitted] or draw
    counts = Counter(one.answer for one in able)
    most = max(counts.values())
    return float(np.mean([one.won for one in able if counts[one.answer] == most]))


def column(values: Sequence[float]) -> NDArray[np.float64]:
    """A value a task as a table of one column, (tasks, 1)."""
    return np.asarray(values, dtype=float)[:, None]
