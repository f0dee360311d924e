"""A critic that somebody published, with labels of their own of which one is success, served by
vLLM's pooling runner. Knows nothing of search."""

from __future__ import annotations

from collections.abc import Sequence

from critic.checkpoint import read_tokenizer
from critic.logits import sigmoid, softmax
from critic.rendering import Renderer
from search.errors import CriticError
from service.critics.classify import ClassifyCritic
from service.settings import ClassifyCriticSettings


class PublishedCritic(ClassifyCritic):
    """Q is the probability of one label. Raises: ``CriticInputError`` if the tokenizer is none, or
    its chat template is not append-only."""

    def __init__(self, name: str, settings: ClassifyCriticSettings) -> None:
        self.settings = settings
        super().__init__(name, settings, renderer_of(settings), self._probability)

    def _probability(self, logits: Sequence[float]) -> float:
        at = self.settings.label
        if at >= len(logits):
            raise CriticError(f"label {at} of {len(logits)}: the first label is 0")
        return sigmoid(logits[at]) if self.settings.activation == "sigmoid" else softmax(logits)[at]


def renderer_of(settings: ClassifyCriticSettings) -> Renderer:
    """By the tokenizer's chat template. Raises: ``CriticInputError``."""
    return Renderer(read_tokenizer(settings.tokenizer), max_tokens=settings.max_tokens)
