"""A critic that somebody published, with labels of their own of which one is success, served by
vLLM's pooling runner. Knows nothing of search."""

from __future__ import annotations

import math
from collections.abc import Sequence

from critic.checkpoint import read_tokenizer
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


def sigmoid(logit: float) -> float:
    """
    >>> sigmoid(0.0), sigmoid(-1000.0)
    (0.5, 0.0)
    """
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def softmax(logits: Sequence[float]) -> list[float]:
    """
    >>> softmax([1000.0, 1000.0])
    [0.5, 0.5]
    """
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    return [weight / sum(weights) for weight in weights]
