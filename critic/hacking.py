"""Value hacking: whether lookahead made failures look better than they are. Knows nothing of
networks.

Under lookahead the argmax finds the critic's errors, so that the mean Q of failing trajectories
rises above that of the policy's own (Zainullina et al., ICML 2025). Compared within tasks, since
lookahead also changes which tasks are failed at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from critic.judged import Judged, by_task
from critic.statistics import Estimate, bootstrap, difference, success

LEAST = 5
"""Tasks of which fewer have no interval worth the name."""


class Hacking(BaseModel):
    """Mean Q of failures on tasks that were failed both ways."""

    tasks: int
    alone: Estimate
    """At the last turn, of the policy alone."""
    guided: Estimate
    """The same under lookahead."""
    rise: Estimate
    """Guided less alone, paired by task."""
    rise_on_the_way: Estimate
    """The same of Q averaged over all turns."""


def hacking(judged: Sequence[Judged], *, draws: int = 2000) -> Hacking | None:
    """``None`` where fewer tasks than ``LEAST`` were failed both with and without lookahead."""
    failed = by_task(one for one in judged if not one.won and (one.guided or one.k == 1))
    both = [own for own in failed.values() if len({one.guided for one in own}) == 2]
    if len(both) < LEAST:
        return None

    def column(guided: bool, q: Callable[[Judged], float]) -> list[list[float]]:
        return [[float(np.mean([q(o) for o in own if o.guided == guided]))] for own in both]

    alone, guided = column(False, _last_q), column(True, _last_q)
    options: dict[str, Any] = {"draws": draws, "drawn": "tasks"}
    return Hacking(
        tasks=len(both),
        alone=bootstrap(success, alone, **options),
        guided=bootstrap(success, guided, **options),
        rise=difference(guided, alone, **options),
        rise_on_the_way=difference(column(True, _mean_q), column(False, _mean_q), **options),
    )


def mean_failed_q(judged: Iterable[Judged]) -> float | None:
    """Mean Q at the last turn of the policy's own failures: what a live service compares with."""
    failed = [one.last_q for one in judged if one.k == 1 and not one.won]
    return float(np.mean(failed)) if failed else None


def _last_q(one: Judged) -> float:
    return one.last_q


def _mean_q(one: Judged) -> float:
    return float(np.mean(one.qs))
