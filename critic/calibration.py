"""From a critic's Q to the probability that it stands for: Platt's scaling or isotonic regression.
Knows nothing of networks.

Neither turns the order of Q round, so that they change no choice among candidates, but that
isotonic regression makes some Q equal; they change what a threshold means, and when selection
abstains.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from critic.logits import sigmoid

_EDGE = 1e-6


class Platt(BaseModel):
    """sigmoid(slope * logit(q) + offset) (Platt, 1999)."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["platt"] = "platt"
    slope: float = Field(gt=0)
    offset: float

    def apply(self, q: float) -> float:
        """The probability in [0, 1] of a Q in [0, 1]."""
        return sigmoid(self.slope * _logit(q) + self.offset)


class Isotonic(BaseModel):
    """Between fitted points by straight lines, beyond them flat; never falls."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["isotonic"] = "isotonic"
    q: list[float] = Field(min_length=1)
    """Rising."""
    rate: list[float] = Field(min_length=1)

    def apply(self, q: float) -> float:
        """The probability in [0, 1] of a Q in [0, 1]."""
        at = bisect_right(self.q, q)
        if at == 0:
            return self.rate[0]
        if at == len(self.q):
            return self.rate[-1]
        left, right = self.q[at - 1], self.q[at]
        share = (q - left) / (right - left)
        return self.rate[at - 1] + share * (self.rate[at] - self.rate[at - 1])


Calibration = Annotated[Platt | Isotonic, Field(discriminator="kind")]


def fit_platt(q: Sequence[float], outcome: Sequence[float]) -> Platt:
    """By Newton's method on the log-likelihood, each step halved until it gains; a little prior
    keeps it finite where Q separates the outcomes. Raises: ``ValueError`` without both outcomes, or
    where success falls with Q."""
    won = _checked(q, outcome)
    x = np.array([_logit(value) for value in q])
    design = np.stack([x, np.ones_like(x)], axis=1)
    start, prior = np.array([1.0, 0.0]), 1e-3

    def loss(weights: np.ndarray) -> float:
        z = design @ weights
        off = weights - start
        return float(np.sum(np.logaddexp(0, z) - won * z) + prior / 2 * off @ off)

    weights = start
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -500, 500)))
        gradient = design.T @ (p - won) + prior * (weights - start)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + prior * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        here = loss(weights)
        while loss(weights - step) > here and np.abs(step).max() > 1e-9:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    if weights[0] <= 0:
        raise ValueError("a higher Q has meant less success here: no calibration mends that")
    return Platt(slope=float(weights[0]), offset=float(weights[1]))


def fit_isotonic(q: Sequence[float], outcome: Sequence[float]) -> Isotonic:
    """By pooling adjacent violators. Raises: ``ValueError`` without both outcomes."""
    won = _checked(q, outcome)
    values, at, counts = np.unique(np.asarray(q, dtype=float), return_inverse=True,
                                   return_counts=True)  # fmt: skip
    hits = np.bincount(at, weights=won)
    blocks: list[tuple[float, float, int]] = []  # sum of q, of outcomes, count
    for value, hit, count in zip(values, hits, counts, strict=True):
        block = (float(value * count), float(hit), int(count))
        while blocks and blocks[-1][1] * block[2] >= block[1] * blocks[-1][2]:
            last = blocks.pop()
            block = (last[0] + block[0], last[1] + block[1], last[2] + block[2])
        blocks.append(block)
    return Isotonic(q=[b[0] / b[2] for b in blocks], rate=[b[1] / b[2] for b in blocks])


def _checked(q: Sequence[float], outcome: Sequence[float]) -> np.ndarray:
    won = (np.asarray(outcome, dtype=float) > 0.5).astype(float)
    if len(q) != len(won) or len(np.unique(won)) < 2:
        raise ValueError("calibration needs successes and failures")
    return won


def _logit(q: float) -> float:
    inside = min(1 - _EDGE, max(_EDGE, q))
    return math.log(inside / (1 - inside))
