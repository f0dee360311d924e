"""Trajectory selection: which of several finished attempts to return. Knows nothing of how they
were made.

Sources: Zainullina et al., ICML 2025, section on trajectory selection: the attempt whose last agent
turn has the highest Q, since at the terminating action Q estimates the terminal reward. And the
hybrid rule of Jain et al., "R2E-Gym", COLM 2025: executed tests among those that the critic keeps.
Where theirs leaves it open, an attempt that did not submit stays behind those that did.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel

from pilotfish import Trajectory
from pilotfish.strategy import Rule
from search.patches import cleaned

KEPT_AT_LEAST = 3


class Choice(BaseModel):
    """The selected trajectory, or an abstention, and the whole ranking."""

    chosen: int | None
    """Position in the given sequence; ``None`` is an abstention."""
    ranking: list[int]
    """Positions, best first."""
    reason: str
    """``only``, ``argmax``, ``hybrid``, ``untested`` (the rule is hybrid, and no attempt has test
    counts: the critic's rule), ``majority``, ``unscored``, ``abstained`` or ``none``."""


def select(
    trajectories: Sequence[Trajectory],
    *,
    abstain_below: float | None = None,
    rule: Rule = "critic",
) -> Choice:
    """Rank by: submitted before not, then the last Q, then position. With the hybrid rule, those at
    the top of that ranking by the tests that they passed. With the majority rule, by how often
    their answer was given, before Q.

    >>> select([]).reason
    'none'
    """
    ranking = sorted(range(len(trajectories)), key=lambda i: (*_merit(trajectories[i]), i))
    if not ranking:
        return Choice(chosen=None, ranking=[], reason="none")
    tested = any(_was_tested(trajectory) for trajectory in trajectories)
    if rule == "hybrid" and tested:
        ranking = by_tests(ranking, [_passed(trajectory) for trajectory in trajectories])
    if rule == "majority":
        ranking = by_frequency(ranking, [_answer(trajectory) for trajectory in trajectories])
    best = trajectories[ranking[0]]
    if abstain_below is not None and (best.last_q is None or best.last_q < abstain_below):
        return Choice(chosen=None, ranking=ranking, reason="abstained")
    if len(ranking) == 1:
        reason = "only"
    elif rule == "hybrid" and tested:
        reason = "hybrid"
    elif rule == "majority":
        reason = "majority"
    elif best.last_q is None:
        reason = "unscored"
    else:
        reason = "untested" if rule == "hybrid" else "argmax"
    return Choice(chosen=ranking[0], ranking=ranking, reason=reason)


def by_tests(ranking: Sequence[int], passed: Sequence[tuple[int, ...]]) -> list[int]:
    """``ranking`` (positions, best first) with its top half, at least three, put in the order of
    what passed, most first; equal ones stay in their order, and so does the rest behind them.

    >>> by_tests([0, 1, 2, 3], [(1, 0), (1, 1), (0, 5), (9, 9)])
    [1, 0, 2, 3]
    """
    kept = max(KEPT_AT_LEAST, math.ceil(len(ranking) / 2))
    top = sorted(ranking[:kept], key=lambda i: passed[i], reverse=True)
    return [*top, *ranking[kept:]]


def by_frequency(ranking: Sequence[int], answers: Sequence[str | None]) -> list[int]:
    """``ranking`` (positions, best first) in the order of how often each answer was given, most
    first; equal ones stay in their order. Who gave none stays behind those who did.

    >>> by_frequency([0, 1, 2, 3], ["a", "b", None, "b"])
    [1, 3, 0, 2]
    """
    counts = Counter(answers[i] for i in ranking if answers[i] is not None)
    return sorted(ranking, key=lambda i: -counts[answers[i]])


def _answer(trajectory: Trajectory) -> str | None:
    """What it handed in; where that is not known, the turn that handed it in is no answer to
    compare, so each is its own."""
    if not trajectory.submitted:
        return None
    return trajectory.id if trajectory.submission is None else cleaned(trajectory.submission)


def _merit(trajectory: Trajectory) -> tuple[bool, float]:
    q = trajectory.last_q
    return (not trajectory.submitted, math.inf if q is None else -q)


def _was_tested(trajectory: Trajectory) -> bool:
    return trajectory.regression_passed is not None or trajectory.generated_passed is not None


def _passed(trajectory: Trajectory) -> tuple[int, ...]:
    """What was not executed has passed nothing."""
    return (
        trajectory.submitted,
        trajectory.regression_passed or 0,
        trajectory.generated_passed or 0,
    )
