"""A race of trajectories under one budget: who has fallen behind, and whether one is good enough to
end it. Knows nothing of how they are run.

It goes by Q of the turns that were taken, which the critic gave on the way; a trajectory that
nobody scored neither falls behind nor holds others back.
"""

from __future__ import annotations

import asyncio

from pilotfish import Trajectory
from pilotfish.strategy import Selection

WINDOW = 3
"""Turns whose mean Q is where a trajectory stands: one turn's error must not end it."""


class Race:
    """The trajectories of one run that began, as far as they are known."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._runners: dict[str, Trajectory] = {}
        self.accepted = asyncio.Event()
        """Set when one is good enough: the others need not go on."""
        self.winner: Trajectory | None = None

    def joined(self, trajectory: Trajectory) -> None:
        """It takes part, or took part before it was resumed."""
        self._runners[trajectory.id] = trajectory
        if trajectory.exit_status is not None:
            self.ended(trajectory)

    def ended(self, trajectory: Trajectory) -> None:
        """It has ended: is it accepted?"""
        bar, q = self._selection.accept_at, trajectory.last_q
        if bar is not None and trajectory.submitted and q is not None and q >= bar:
            self.winner = self.winner or trajectory
            self.accepted.set()

    def lost(self, trajectory: Trajectory) -> None:
        """It was lost after it had ended, in its evaluation: if it had won, nobody has."""
        if self.winner is trajectory:
            self.winner = None
            self.accepted.clear()

    def behind(self, trajectory: Trajectory) -> str | None:
        """Why a trajectory should go no further, if it should not."""
        margin = self._selection.prune_behind
        if margin is None or len(trajectory.steps) < self._selection.prune_after:
            return None
        own = standing(trajectory)
        others = [
            found
            for other in self._runners.values()
            if other is not trajectory and _counts(other)
            if (found := standing(other)) is not None
        ]
        if own is None or not others or max(others) - own <= margin:
            return None
        return f"Q {own:.3f} is more than {margin:g} behind another's {max(others):.3f}"


def standing(trajectory: Trajectory) -> float | None:
    """Mean Q of the last turns that were scored, of ``WINDOW`` at most; ``None`` without any."""
    qs = [step.decision.winner.q for step in trajectory.steps[-WINDOW:]]
    known = [q for q in qs if q is not None]
    return sum(known) / len(known) if known else None


def _counts(trajectory: Trajectory) -> bool:
    """One that goes on or has submitted; what ended otherwise is nobody's measure."""
    return trajectory.exit_status is None or trajectory.submitted
