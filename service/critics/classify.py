"""Any sequence classifier behind vLLM's ``/classify``. Knows nothing of search, nor of what the
labels mean.

We send tokens, not text: rendering is ours, append-only, so that vLLM's prefix cache has the state
of the last step when the candidates of this one arrive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from critic.rendering import Renderer
from pilotfish import Message
from search.contracts import Score
from search.errors import CriticError
from service.critics.endpoint import CriticAway, CriticEndpoint
from service.critics.reading import reading
from service.critics.together import Together
from service.endpoint import Replicated, addresses
from service.replicas import Replicas


class ServedModel(Replicated, Protocol):
    """Servers that have a model of this name."""

    model: str


class _Server:
    """One of them."""

    def __init__(self, settings: ServedModel, url: str, read: Callable[[Any], list[float]]) -> None:
        self._model, self._read = settings.model, read
        self._endpoint = CriticEndpoint(settings, url)
        self.logits = Together(self._ask, settings.max_connections)

    async def close(self) -> None:
        await self.logits.close()
        await self._endpoint.close()

    async def _ask(self, rows: list[list[int]]) -> list[list[float]]:
        """The head's logits of each row."""
        body = {"model": self._model, "input": rows, "use_activation": False}

        def read(answer: Any) -> list[list[float]]:
            return [self._read(row) for _, row in zip(rows, answer["data"], strict=True)]

        return await self._endpoint.ask("/classify", body, read)


class ClassifyCritic:
    """``q`` makes a Q of one row's logits; ``labels`` is how many there must be, any by default."""

    every_turn = True

    def __init__(
        self,
        name: str,
        settings: ServedModel,
        renderer: Renderer,
        q: Callable[[Sequence[float]], float],
        *,
        labels: int | None = None,
    ) -> None:
        self.name, self.renderer = name, renderer
        self._q, self._labels = q, labels
        self._servers = Replicas(
            {url: _Server(settings, url, self._logits) for url in addresses(settings)}
        )

    async def close(self) -> None:
        for server in self._servers:
            await server.close()

    async def warm(self, state: Sequence[Message], *, session: str | None = None) -> None:
        with reading():
            row = self.renderer.render_state(state)
        await self._asked([row], session)

    async def score(
        self, state: Sequence[Message], actions: Sequence[Message], *, session: str | None = None
    ) -> list[Score]:
        if not actions:
            return []
        with reading():
            rows = [self.renderer.render_action(state, action) for action in actions]
        return await self._scored(rows, session)

    async def score_turns(self, messages: Sequence[Message]) -> list[Score]:
        """Each turn's Q is read at the end of a prefix of the last one's tokens: with the prefix
        cache, computing them costs one pass."""
        with reading():
            windows = self.renderer.windows(messages)
        rows = [window.ids[: end + 1] for window in windows for end in window.turn_ends]
        return await self._scored(rows, None) if rows else []

    async def _scored(self, rows: list[list[int]], session: str | None) -> list[Score]:
        address, answers = await self._asked(rows, session)
        for logits in answers:
            if not all(map(math.isfinite, logits)):  # costs whom it is for, not who was with it
                raise CriticError(f"{address}: not an answer of /classify: {logits}")
        return [Score(self._q(logits)) for logits in answers]

    async def _asked(
        self, rows: list[list[int]], session: str | None
    ) -> tuple[str, list[list[float]]]:
        """Of the session's server; where that is away, of another's."""
        for _ in self._servers:
            address, server = self._servers.of(session)
            try:
                return address, await server.logits(rows)
            except CriticAway as error:
                self._servers.missed(address)
                away = error
        raise away

    def _logits(self, row: dict[str, Any]) -> list[float]:
        logits = [float(logit) for logit in row["probs"]]
        if self._labels is not None and len(logits) != self._labels:
            raise ValueError(f"{len(logits)} labels; this critic has {self._labels}")
        return logits
