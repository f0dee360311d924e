"""A chat model as a critic, behind any OpenAI-compatible endpoint. Knows neither the question nor
what an answer means: each kind of judge says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pilotfish import Message
from search.contracts import Score
from service.critics.all_of import all_of
from service.critics.asking import Asking, Prompt
from service.critics.endpoint import CriticEndpoint
from service.critics.reading import reading
from service.settings import JudgeSettings

T = TypeVar("T")
_NEWER = "max_completion_tokens"
NOTHING: Mapping[str, Any] = {}


class Judge(ABC):
    """One request, or several, for every turn that is scored."""

    def __init__(self, name: str, settings: JudgeSettings, question: str) -> None:
        self.name, self.every_turn = name, settings.every_turn
        self._model, self._extra, self._warm = settings.model, settings.extra, settings.warm
        self.endpoint = CriticEndpoint(settings)
        self.asking = Asking(settings.question or question, settings.max_chars)

    @abstractmethod
    async def judge(self, prompt: Prompt) -> Score:
        """Ask, and understand the answer. Raises: ``CriticError``."""

    async def close(self) -> None:
        await self.endpoint.close()

    async def warm(self, state: Sequence[Message], *, session: str | None = None) -> None:
        if not self._warm:
            return
        with reading():
            prompt = self.asking.of_state(state)
        # newer endpoints have another name for the bound, and refuse the old one
        bound = _NEWER if _NEWER in self._extra else "max_tokens"
        await self.complete(prompt, lambda choices: None, over={bound: 1})

    async def score(
        self, state: Sequence[Message], actions: Sequence[Message], *, session: str | None = None
    ) -> list[Score]:
        with reading():
            prompts = [self.asking.of_action(state, action) for action in actions]
        return await all_of(self.judge(prompt) for prompt in prompts)

    async def score_turns(self, messages: Sequence[Message]) -> list[Score]:
        with reading():
            prompts = self.asking.of_turns(messages)
        return await all_of(self.judge(prompt) for prompt in prompts)

    async def complete(
        self,
        prompt: Prompt,
        read: Callable[[list[Any]], T],
        *,
        over: Mapping[str, Any] = NOTHING,
        **fields: Any,
    ) -> T:
        """What ``read`` makes of the answer's choices. ``fields`` of the request give way to the
        settings' ``extra``, and that to ``over``. Raises: ``CriticError``."""
        body = {"model": self._model, "messages": prompt} | fields | self._extra | dict(over)
        body = {name: value for name, value in body.items() if value is not None}
        return await self.endpoint.ask(
            "/chat/completions", body, lambda told: read(told["choices"])
        )
