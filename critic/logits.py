"""From logits to probabilities, one row at a time and without torch. Knows no labels."""

from __future__ import annotations

import math
from collections.abc import Sequence


def sigmoid(logit: float) -> float:
    """In [0, 1], without overflow.

    >>> sigmoid(0.0), sigmoid(-1000.0)
    (0.5, 0.0)
    """
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def softmax(logits: Sequence[float]) -> list[float]:
    """One probability a logit.

    >>> softmax([1000.0, 1000.0])
    [0.5, 0.5]
    """
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    total = sum(weights)
    return [weight / total for weight in weights]
