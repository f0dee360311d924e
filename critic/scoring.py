"""Scoring in process with torch: for small critics, and for tests. Knows nothing of servers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from critic import model as value_model
from critic.checkpoint import read_renderer
from critic.data import Example, collate
from pilotfish import Message


class Scorer:
    """A critic loaded into this process."""

    def __init__(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Raises: ``CriticInputError`` if ``folder`` is no critic."""
        self.network, self.card = value_model.load(folder, dtype=dtype)
        self.renderer = read_renderer(folder, self.card)

    def score(
        self, state: Sequence[Message], actions: Sequence[Message], *, policy: str | None = None
    ) -> list[float]:
        """Q in [0, 1] of each action in this state. Raises: ``CriticInputError``."""
        if not actions:
            return []
        rows = [self.renderer.render_action(state, action, policy=policy) for action in actions]
        examples = [Example("", ids, [len(ids) - 1], 0.0) for ids in rows]
        return self._values(examples)

    def score_turns(self, messages: Sequence[Message], *, policy: str | None = None) -> list[float]:
        """Q at every agent turn, oldest first, in one pass. Raises: ``CriticInputError``."""
        rendered = self.renderer.render(messages, policy=policy)
        if not rendered.turn_ends:
            return []
        return self._values([Example("", rendered.ids, rendered.turn_ends, 0.0)])

    @torch.inference_mode()
    def _values(self, examples: list[Example]) -> list[float]:
        batch = collate(examples, int(self.network.config.pad_token_id))
        raw = value_model.raw_values(self.network, batch.ids_BL, batch.mask_BL, batch.at_P2)
        return [self.card.q(value) for value in raw.tolist()]
