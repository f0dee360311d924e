"""Several critics as one: the mean of their Q, and how far they are apart. Knows nothing of what
they are."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from pilotfish import Message
from search.contracts import Critic, Score
from search.errors import CriticError, CriticRefused, CriticTooLong
from service.settings import EnsembleCriticSettings

T = TypeVar("T")


class Ensemble:
    """The members are asked at once, and closed by whoever made them."""

    def __init__(
        self, name: str, settings: EnsembleCriticSettings, members: Sequence[Critic]
    ) -> None:
        self.name, self.settings, self._members = name, settings, members
        self.every_turn = all(member.every_turn for member in members)

    async def warm(self, state: Sequence[Message], *, session: str | None = None) -> None:
        _, errors = await self._ask(lambda member: member.warm(state, session=session))
        if errors:
            raise errors[0]

    async def score(
        self, state: Sequence[Message], actions: Sequence[Message], *, session: str | None = None
    ) -> list[Score]:
        return self._together(
            *await self._ask(lambda member: member.score(state, actions, session=session))
        )

    async def score_turns(self, messages: Sequence[Message]) -> list[Score]:
        return self._together(*await self._ask(lambda member: member.score_turns(messages)))

    async def _ask(
        self, ask: Callable[[Critic], Awaitable[T]]
    ) -> tuple[list[T], list[CriticError]]:
        """What the members answer, and what those say that fail."""

        async def one(member: Critic) -> T | CriticError:
            try:
                return await ask(member)
            except CriticError as error:
                return type(error)(f"{member.name}: {error}")

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(member)) for member in self._members]
        answers: list[T] = []
        errors: list[CriticError] = []
        for task in tasks:
            answer = task.result()
            if isinstance(answer, CriticError):
                errors.append(answer)
            else:
                answers.append(answer)
        return answers, errors

    def _together(self, answers: list[list[Score]], errors: list[CriticError]) -> list[Score]:
        wanted = self.settings.min_members or len(self._members)
        if len(answers) < wanted:
            told = "; ".join(map(str, errors))
            raise _kind(errors)(
                f"{len(answers)} of {len(self._members)} members of {self.name} answer, "
                f"{wanted} must: {told}"
            )
        return [
            combine([score.q for score in scores], self.settings.pessimism)
            for scores in zip(*answers, strict=True)
        ]


def combine(qs: Sequence[float], pessimism: float) -> Score:
    """The mean less ``pessimism`` times the population standard deviation, cut to [0, 1].

    >>> combine([0.25, 0.75], 1.0)
    Score(q=0.25, spread=0.25)
    """
    spread = statistics.pstdev(qs)
    return Score(min(1.0, max(0.0, statistics.fmean(qs) - pessimism * spread)), spread)


def _kind(errors: Sequence[CriticError]) -> type[CriticError]:
    """A refusal only where every failure is one: else it may be of use to ask again."""
    for kind in (CriticTooLong, CriticRefused):
        if all(isinstance(error, kind) for error in errors):
            return kind
    return CriticError
