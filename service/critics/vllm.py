"""A critic of our own, by its checkpoint, served by vLLM's pooling runner. Knows nothing of
search."""

from __future__ import annotations

from critic.checkpoint import read_card, read_serving_renderer
from service.critics.classify import ClassifyCritic
from service.settings import VllmCriticSettings


class VllmCritic(ClassifyCritic):
    """Raises: ``CriticInputError`` if the checkpoint is no critic."""

    def __init__(self, name: str, settings: VllmCriticSettings) -> None:
        self.card = read_card(settings.checkpoint)
        renderer = read_serving_renderer(settings.checkpoint, self.card, settings.policy)
        super().__init__(name, settings, renderer, self.card.q, labels=self.card.labels)
