"""A critic judges the candidates that a decision log has kept. Knows no statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from critic.errors import NotJudged
from critic.judges import Judge
from critic.reselection import Reconsidered, Redecided
from critic.trajectory import Trajectory
from pilotfish import Candidate, Decision


def redecided(
    by: Judge,
    trajectories: Iterable[Trajectory],
    *,
    left_out: Counter[str] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[Redecided]:
    """Every rewarded trajectory that chose among candidates. What it cannot judge, and what chose
    without scoring all candidates, is left out and counted in ``left_out``."""
    counted = Counter[str]() if left_out is None else left_out
    done = 0
    for trajectory in trajectories:
        steps = [_different(step.decision) for step in trajectory.steps]
        if trajectory.reward is None or all(len(found) < 2 for found in steps):
            continue
        if any(c.q is None for found in steps for c in found.values()):
            counted["with a candidate that was not scored"] += 1
            continue
        try:
            yield _redecided(by, trajectory, steps)
        except NotJudged as error:
            counted[error.why] += 1
            continue
        done += 1
        progress(done)


def _redecided(by: Judge, trajectory: Trajectory, steps: list[dict[str, Candidate]]) -> Redecided:
    qs_of_steps = by.candidates(
        trajectory, [[m for c in different.values() if (m := c.message)] for different in steps]
    )
    found: list[Reconsidered] = []
    for step, different, qs in zip(trajectory.steps, steps, qs_of_steps, strict=True):
        # of equal Q the more probable, as lookahead takes
        *_, choice = max(
            (q, candidate.likelihood, -candidate.index, action)
            for q, (action, candidate) in zip(qs, different.items(), strict=True)
        )
        executed = step.decision.message.action_key
        found.append(
            Reconsidered(
                same=choice == executed,
                q_of_executed=different[executed].q or 0.0,
                q_of_choice=different[choice].q or 0.0,
            )
        )
    return Redecided(trajectory.task_id, (trajectory.reward or 0.0) > 0.5, tuple(found))


def _different(decision: Decision) -> dict[str, Candidate]:
    """The different candidates of a step, first come first."""
    found: dict[str, Candidate] = {}
    for candidate in decision.candidates:
        if candidate.message is not None:
            found.setdefault(candidate.message.action_key, candidate)
    return found
