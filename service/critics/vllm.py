"""A critic's checkpoint served by vLLM's pooling runner (``/classify``). Knows nothing of search.

We send tokens, not text: rendering is ours, append-only, so that vLLM's prefix cache has the state
of the last step when the candidates of this one arrive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import httpx
import stamina

from critic.checkpoint import read_card, read_renderer
from pilotfish import Message
from search.errors import CriticError, CriticRefused, CriticTooLong
from service.critics.reading import reading
from service.critics.together import Together
from service.endpoint import TOO_LONG, client_of
from service.settings import VllmCriticSettings

_BROKEN = (httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
"""A connection that broke, as one does that the server had just closed: scoring changes nothing, so
it is asked again."""


class VllmCritic:
    """Raises: ``CriticInputError`` if the checkpoint is no critic."""

    def __init__(self, name: str, settings: VllmCriticSettings) -> None:
        self.name, self.settings = name, settings
        self.card = read_card(settings.checkpoint)
        self.renderer = read_renderer(settings.checkpoint, self.card)
        self.client = client_of(settings)
        self._together = Together(self._request, settings.max_connections)

    async def close(self) -> None:
        await self._together.close()
        await self.client.aclose()

    async def warm(self, state: Sequence[Message], *, session: str | None = None) -> None:
        with reading():
            row = self.renderer.render_state(state)
        await self._classify([row])

    async def score(
        self, state: Sequence[Message], actions: Sequence[Message], *, session: str | None = None
    ) -> list[float]:
        if not actions:
            return []
        with reading():
            rows = [self.renderer.render_action(state, action) for action in actions]
        return await self._classify(rows)

    async def score_turns(self, messages: Sequence[Message]) -> list[float]:
        """Each turn's Q is read at the end of a prefix of the last one's tokens: with the prefix
        cache, computing them costs one pass."""
        with reading():
            windows = self.renderer.windows(messages)
        rows = [window.ids[: end + 1] for window in windows for end in window.turn_ends]
        return await self._classify(rows) if rows else []

    async def _classify(self, rows: list[list[int]]) -> list[float]:
        answers = await self._together(rows)
        for logits in answers:
            if not all(map(math.isfinite, logits)):  # costs whom it is for, not who was with it
                raise CriticError(f"{self.settings.url}: not an answer of /classify: {logits}")
        return [self.card.q(logits) for logits in answers]

    async def _request(self, rows: list[list[int]]) -> list[list[float]]:
        """The head's logits of each row."""
        body = {"model": self.settings.model, "input": rows, "use_activation": False}
        try:
            response = await self._post(body)
        except httpx.HTTPError as error:
            what = str(error) or type(error).__name__
            raise CriticError(f"{self.settings.url}: {what}") from error
        if response.status_code != 200:
            told = _message(response)
            if response.status_code == 400:
                raise CriticTooLong(told) if TOO_LONG.search(told) else CriticRefused(told)
            raise CriticError(f"{self.settings.url} answers {response.status_code}: {told}")
        try:
            return [self._logits(row) for _, row in zip(rows, response.json()["data"], strict=True)]
        except (KeyError, TypeError, ValueError) as error:
            raise CriticError(f"not an answer of /classify: {response.text[:200]!r}") from error

    def _logits(self, row: dict[str, Any]) -> list[float]:
        logits = [float(logit) for logit in row["probs"]]
        if len(logits) != self.card.labels:
            raise ValueError(f"{len(logits)} labels; this critic has {self.card.labels}")
        return logits

    @stamina.retry(on=_BROKEN, attempts=3, timeout=10.0)
    async def _post(self, body: dict[str, Any]) -> httpx.Response:
        return await self.client.post("/classify", json=body)


def _message(response: httpx.Response) -> str:
    """What an error says, of OpenAI's shape or of any."""
    try:
        return str(response.json()["error"]["message"])
    except (KeyError, TypeError, ValueError):
        return response.text[:300]
