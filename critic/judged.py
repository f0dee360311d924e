"""Trajectories as a critic judges them: the numbers that every measure of a critic is made of, and
none of the text. Knows no measure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from critic.errors import NotJudged
from critic.judges import Judge, said
from critic.trajectory import Trajectory


@dataclass(frozen=True)
class Judged:
    """One trajectory that has a reward."""

    id: str
    task_id: str
    reward: float
    submitted: bool
    k: int
    """Candidates a step: 1 is the policy alone, more is lookahead."""
    attempt: int
    """0, or which further attempt until one submitted."""
    answer: str
    """Digest of what it handed in: equal ones are one answer."""
    guided: bool
    """Whether a critic chose among candidates on the way: not where a vote did."""
    qs: tuple[float, ...]
    """(turns,) Q at every agent turn; empty where it has none."""

    @property
    def won(self) -> bool:
        return self.reward > 0.5

    @property
    def last_q(self) -> float:
        return self.qs[-1]

    def q_at(self, share: float) -> float:
        """Q at the turn after this share of them, in [0, 1]: one number, however many turns."""
        return self.qs[round(share * (len(self.qs) - 1))]

    @property
    def score(self) -> float:
        """By what selection ranks: what was submitted before what was not, then the last Q."""
        return self.last_q + 2 * self.submitted  # a Q may be just 0 or 1


def answer_of(trajectory: Trajectory) -> str:
    """What it handed in; where that is not known, all that it said and called."""
    if trajectory.submission is not None:
        return trajectory.submission
    return "\0".join(step.decision.message.action_key for step in trajectory.steps)


def recorded(trajectories: Iterable[Trajectory]) -> Iterator[Judged]:
    """Rewarded trajectories with the Q that was recorded when they were made; those without one at
    their last turn are left out."""
    for trajectory in trajectories:
        if trajectory.reward is not None and trajectory.last_q is not None:
            yield _judged(trajectory, [q for q in trajectory.qs if q is not None])


def judge(
    by: Judge,
    trajectories: Iterable[Trajectory],
    *,
    left_out: Counter[str] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[Judged]:
    """Rewarded trajectories with the judge's own Q at every turn. What has no turn, and what it
    cannot judge (longer than it reads, say), is left out and counted in ``left_out``."""
    counted = Counter[str]() if left_out is None else left_out
    rewarded = (t for t in trajectories if _can_be_judged(t, counted))
    for done, (trajectory, qs) in enumerate(said(by, rewarded), start=1):
        if isinstance(qs, NotJudged):
            counted[qs.why] += 1
        else:
            yield _judged(trajectory, qs)
        progress(done)


def calibrated(judged: Iterable[Judged], to_probability: Callable[[float], float]) -> list[Judged]:
    """The same with Q put through a calibration."""
    return [replace(one, qs=tuple(map(to_probability, one.qs))) for one in judged]


def by_task(judged: Iterable[Judged]) -> dict[str, list[Judged]]:
    """Grouped by task, in the order of the tasks' names."""
    groups: dict[str, list[Judged]] = {}
    for one in judged:
        groups.setdefault(one.task_id, []).append(one)
    return dict(sorted(groups.items()))


def _can_be_judged(trajectory: Trajectory, left_out: Counter[str]) -> bool:
    if trajectory.reward is None:
        left_out["without a reward"] += 1
    elif not trajectory.steps:
        left_out["without a turn"] += 1
    return trajectory.reward is not None and bool(trajectory.steps)


def _judged(trajectory: Trajectory, qs: Sequence[float]) -> Judged:
    handed_in = answer_of(trajectory).encode(errors="surrogatepass")
    return Judged(
        id=trajectory.id,
        task_id=trajectory.task_id,
        reward=trajectory.reward or 0.0,
        submitted=trajectory.submitted,
        k=max((step.decision.requested for step in trajectory.steps), default=1),
        guided=any(
            sum(c.q is not None for c in step.decision.candidates) > 1 for step in trajectory.steps
        ),
        attempt=trajectory.attempt,
        answer=hashlib.blake2b(handed_in, digest_size=8).hexdigest(),
        qs=tuple(qs),
    )
