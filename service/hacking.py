"""The live watch for value hacking: whether lookahead makes failures look better than they are.
Knows nothing of how trajectories come about.

Under lookahead the argmax finds a critic's errors, so that the Q of failing trajectories rises.
What is compared is the mean Q at the last turn of the latest failures under a critic's lookahead
with that of the latest failures of the policy alone; before there are enough of those, with what
the critic's card says of its own held-out tasks (``failed_q``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import fmean

import structlog

from pilotfish import Trajectory
from service.metrics import FAILED_Q, VALUE_HACKING

log = structlog.get_logger()

LATEST = 500
"""Failures of each kind that are remembered."""


class HackingWatch:
    """``margin``: rise of mean Q that is an alarm; ``least``: failures of a kind before it says
    anything. ``expected``: of a critic's name, the mean Q of failures that its card promises."""

    def __init__(self, margin: float, least: int, expected: Callable[[str], float | None]) -> None:
        self._margin, self._least, self._expected = margin, least, expected
        self._failed: dict[tuple[str, bool], deque[float]] = {}
        self._alarms: dict[str, bool] = {}

    def alarm(self, critic: str) -> bool:
        """Whether it is hacked, by the latest failures."""
        return self._alarms.get(critic, False)

    def ended(self, trajectory: Trajectory) -> None:
        """Take note of a trajectory that was evaluated; of others nothing is known."""
        critic, q = trajectory.critic, trajectory.last_q
        if critic is None or q is None or trajectory.reward is None or trajectory.reward > 0.5:
            return
        guided = any(step.decision.requested > 1 for step in trajectory.steps)
        failed = self._failed.setdefault((critic, guided), deque(maxlen=LATEST))
        failed.append(q)
        FAILED_Q.labels(critic, str(guided).lower()).set(fmean(failed))
        self._judge(critic)

    def _judge(self, critic: str) -> None:
        guided, alone = self._mean(critic, True), self._mean(critic, False)
        usual = self._expected(critic) if alone is None else alone
        if guided is None or usual is None:
            return
        raised = guided - usual > self._margin
        VALUE_HACKING.labels(critic).set(raised)
        if raised and not self.alarm(critic):
            log.warning(
                "value hacking: failures under lookahead look better than they are; train the "
                "critic again on trajectories made under it",
                critic=critic,
                failed_q=round(guided, 3),
                usual=round(usual, 3),
            )
        self._alarms[critic] = raised

    def _mean(self, critic: str, guided: bool) -> float | None:
        failed = self._failed.get((critic, guided), ())
        return fmean(failed) if len(failed) >= self._least else None
