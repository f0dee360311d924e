"""How good Q is, as pure functions over numbers. Knows nothing of networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel


class Calibration(BaseModel):
    """Mean Q beside the observed rate, by bin of Q; empty bins are left out."""

    q: list[float]
    rate: list[float]
    count: list[int]


def auc(q: ArrayLike, outcome: ArrayLike) -> float:
    """Probability that a success has a higher Q than a failure (ties count half). NaN if there is
    only one kind.

    >>> auc([0.9, 0.1], [1, 0])
    1.0
    """
    values, won = np.asarray(q, dtype=float), np.asarray(outcome, dtype=bool)
    wins, losses = int(won.sum()), int((~won).sum())
    if not wins or not losses:
        return float("nan")
    order = np.argsort(values, kind="stable")
    _, inverse, counts = np.unique(values[order], return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    ranks = np.empty(len(values))
    ranks[order] = mean_rank[inverse]
    return float((ranks[won].sum() - wins * (wins + 1) / 2) / (wins * losses))


def average_precision(q: ArrayLike, outcome: ArrayLike) -> float:
    """Area under precision by recall, in steps: the mean, over successes, of the precision among
    all that have at least their Q. NaN without a success.

    >>> round(average_precision([0.9, 0.5, 0.1], [1, 0, 1]), 4)
    0.8333
    """
    values, won = np.asarray(q, dtype=float), np.asarray(outcome, dtype=bool)
    if not won.any():
        return float("nan")
    order = np.argsort(-values, kind="stable")
    ranked, hits = values[order], np.cumsum(won[order])
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)
    at = np.flatnonzero(last_of_tie)
    gained = np.diff(hits[at], prepend=0)
    return float((gained * hits[at] / (at + 1)).sum() / won.sum())


def brier(q: ArrayLike, outcome: ArrayLike) -> float:
    """Mean squared difference of Q and outcome."""
    return float(np.mean((np.asarray(q, dtype=float) - np.asarray(outcome, dtype=float)) ** 2))


def calibration(q: ArrayLike, outcome: ArrayLike, bins: int = 10) -> Calibration:
    """The calibration curve over equal bins of [0, 1]."""
    values, won = np.asarray(q, dtype=float), np.asarray(outcome, dtype=float)
    place = np.minimum((values * bins).astype(int), bins - 1)
    filled = [b for b in range(bins) if (place == b).any()]
    return Calibration(
        q=[float(values[place == b].mean()) for b in filled],
        rate=[float(won[place == b].mean()) for b in filled],
        count=[int((place == b).sum()) for b in filled],
    )


def ece(q: ArrayLike, outcome: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: |Q - rate| by bin, weighted by count."""
    curve = calibration(q, outcome, bins)
    total = sum(curve.count)
    return sum(
        n * abs(a - b) for a, b, n in zip(curve.q, curve.rate, curve.count, strict=True)
    ) / max(total, 1)


def within_task(task: Sequence[str], q: Sequence[float], outcome: Sequence[float]) -> float:
    """Ranking accuracy within tasks: over pairs of a success and a failure of the same task, the
    share in which the success has the higher Q (ties count half). NaN without such a pair."""
    by_task: dict[str, list[tuple[float, float]]] = {}
    for name, value, won in zip(task, q, outcome, strict=True):
        by_task.setdefault(name, []).append((value, won))
    scores = [ranked_right(*zip(*rows, strict=True)) for rows in by_task.values()]
    total = sum(pairs for _, pairs in scores)
    return sum(right for right, _ in scores) / total if total else float("nan")


def ranked_right(q: Sequence[float], outcome: Sequence[float]) -> tuple[float, int]:
    """Over pairs of a success and a failure: in how many the success has the higher Q (ties count
    half), and how many there are."""
    won = np.asarray(outcome, dtype=float) > 0.5
    pairs = int(won.sum() * (~won).sum())
    return (auc(q, won) * pairs if pairs else 0.0), pairs
