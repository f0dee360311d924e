"""A critic loaded into this process by torch. Knows nothing of search."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec

from critic.checkpoint import read_serving_renderer
from critic.scoring import Scorer
from pilotfish import Message
from search.contracts import Score
from service.critics.reading import reading
from service.settings import TorchCriticSettings

P = ParamSpec("P")


class TorchCritic:
    """One thread computes, so that the event loop stays free."""

    every_turn = True

    def __init__(self, name: str, settings: TorchCriticSettings) -> None:
        self.name = name
        self._scorer = Scorer(settings.checkpoint, device=settings.device)
        self.card = self._scorer.card
        self._scorer.renderer = read_serving_renderer(
            settings.checkpoint, self.card, settings.policy
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"critic-{name}")

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def warm(self, state: Sequence[Message], *, session: str | None = None) -> None:
        await self._run(self._warmed, state)

    def _warmed(self, state: Sequence[Message]) -> list[float]:
        self._scorer.warm(state)
        return []

    async def score(
        self, state: Sequence[Message], actions: Sequence[Message], *, session: str | None = None
    ) -> list[Score]:
        return [Score(q) for q in await self._run(self._scorer.score, state, actions)]

    async def score_turns(self, messages: Sequence[Message]) -> list[Score]:
        return [Score(q) for q in await self._run(self._scorer.score_turns, messages)]

    async def _run(
        self, work: Callable[P, list[float]], *args: P.args, **kwargs: P.kwargs
    ) -> list[float]:
        loop = asyncio.get_running_loop()
        with reading():
            return await loop.run_in_executor(self._thread, lambda: work(*args, **kwargs))
