"""A critic reads the candidates that a decision log has kept. Knows no statistics."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator

from critic.errors import HistoryTooLong
from critic.reselection import Redecided
from critic.scoring import Scorer
from critic.trajectory import Trajectory
from pilotfish import Candidate, Decision, Message


def redecided(
    scorer: Scorer,
    trajectories: Iterable[Trajectory],
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[Redecided]:
    """Every rewarded trajectory that chose among candidates; what is longer than the critic reads
    is left out."""
    done = 0
    for trajectory in trajectories:
        chose = any(len(_different(step.decision)) > 1 for step in trajectory.steps)
        if trajectory.reward is not None and chose:
            try:
                yield _redecided(scorer, trajectory)
            except HistoryTooLong:
                continue
            done += 1
            progress(done)


def _redecided(scorer: Scorer, trajectory: Trajectory) -> Redecided:
    state = list(trajectory.prefix)
    steps: list[tuple[bool, float]] = []
    for step in trajectory.steps:
        different = _different(step.decision)
        qs = scorer.score(state, list(different.values()), policy=trajectory.policy)
        best = max(zip(qs, different, strict=True), key=lambda pair: pair[0])
        steps.append((best[1] == _key(step.decision.message), best[0]))
        state += [step.decision.message, *step.replies]
    return Redecided(trajectory.task_id, (trajectory.reward or 0.0) > 0.5, tuple(steps))


def _different(decision: Decision) -> dict[str, Message]:
    """The different candidates of a step, first come first."""
    candidates: list[Candidate] = decision.candidates
    found: dict[str, Message] = {}
    for candidate in candidates:
        if candidate.message is not None:
            found.setdefault(_key(candidate.message), candidate.message)
    return found


def _key(message: Message) -> str:
    calls = [call.get("function") for call in message.tool_calls or []]
    return json.dumps([message.content, calls], sort_keys=True, default=str)
