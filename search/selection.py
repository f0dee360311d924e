"""Trajectory selection: which of several finished attempts to return. Knows nothing of how they
were made.

Source: Zainullina et al., ICML 2025, section on trajectory selection: the attempt whose last agent
turn has the highest Q, since at the terminating action Q estimates the terminal reward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel

from pilotfish import Trajectory


class Choice(BaseModel):
    """The selected trajectory, or an abstention, and the whole ranking."""

    chosen: int | None
    """Position in the given sequence; ``None`` is an abstention."""
    ranking: list[int]
    """Positions, best first."""
    reason: str
    """``only``, ``argmax``, ``unscored``, ``abstained`` or ``none``."""


def select(trajectories: Sequence[Trajectory], *, abstain_below: float | None = None) -> Choice:
    """Rank by: submitted before not, then the last Q, then position.

    >>> select([]).reason
    'none'
    """
    ranking = sorted(range(len(trajectories)), key=lambda i: (*_merit(trajectories[i]), i))
    if not ranking:
        return Choice(chosen=None, ranking=[], reason="none")
    best = trajectories[ranking[0]]
    if abstain_below is not None and (best.last_q is None or best.last_q < abstain_below):
        return Choice(chosen=None, ranking=ranking, reason="abstained")
    reason = "only" if len(ranking) == 1 else "unscored" if best.last_q is None else "argmax"
    return Choice(chosen=ranking[0], ranking=ranking, reason=reason)


def _merit(trajectory: Trajectory) -> tuple[bool, float]:
    q = trajectory.last_q
    return (not trajectory.submitted, math.inf if q is None else -q)
