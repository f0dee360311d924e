"""A finished history, read by a critic once more. Knows nothing of why."""

from __future__ import annotations

from collections.abc import Sequence

from pilotfish import Message, Step
from search.contracts import Critic, Score


async def score_finished(critic: Critic, messages: Sequence[Message]) -> list[Score | None]:
    """The history's agent turns, oldest first; ``None`` for those that this critic does not read:
    all but the last, unless ``every_turn``. Raises: ``CriticError``."""
    turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
    if critic.every_turn or not turns:
        return [*await critic.score_turns(messages)]
    last = turns[-1]
    [score] = await critic.score(messages[:last], [messages[last]])
    return [None] * (len(turns) - 1) + [score]


def put_scores(steps: Sequence[Step], scores: Sequence[Score | None]) -> None:
    """Write the scores of a history to the steps that are its end: turns before them, as of
    examples shown to the agent, have scores too. A turn that was not read keeps what it has."""
    for step, score in zip(steps, scores[len(scores) - len(steps) :], strict=True):
        if score is not None:
            step.decision.winner.q, step.decision.winner.spread = score.q, score.spread
