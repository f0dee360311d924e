"""From logits to probabilities, one row at a time, and what a categorical head's bins stand for.
Knows no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

BEYOND = 2
"""Bins below 0, and above 1."""
FEWEST_BINS = 2 * BEYOND + 2


def bin_middles(bins: int) -> list[float]:
    """Where the bins of a categorical head lie: equal steps from a little below 0 to a little above
    1, so that a Gaussian about 0 or 1 is not cut off.

    >>> bin_middles(7)
    [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]
    """
    return [(i - BEYOND) / (bins - 2 * BEYOND - 1) for i in range(bins)]


def bin_values(bins: int) -> list[float]:
    """What they stand for: 0 below 0, 1 above 1. So their mean is in [0, 1], and of two that are
    near an end one is still the higher.

    >>> bin_values(7)
    [0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    """
    return [min(1.0, max(0.0, middle)) for middle in bin_middles(bins)]


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
