"""Targets of the value model, as pure functions. Knows nothing of networks.

Symbols: ``T`` agent turns, reward ``r`` in [0, 1] at the end only, ``q[t]`` = Q(s_t, a_t).
"""

from __future__ import annotations

from collections.abc import Sequence


def td_lambda(
    q: Sequence[float], reward: float, *, lam: float = 0.7, gamma: float = 1.0
) -> list[float]:
    """TD(lambda) targets, (T,), by one backward scan (Sutton and Barto, section 12.1; as used by
    Zainullina et al., ICML 2025): y[T-1] = r and
    y[t] = gamma * ((1 - lam) * q[t+1] + lam * y[t+1]).

    ``q`` are values from which no gradient may flow. Raises: ``ValueError`` outside the ranges.

    >>> td_lambda([0.5, 0.5, 0.5], 1.0, lam=1.0)
    [1.0, 1.0, 1.0]
    >>> td_lambda([0.1, 0.2, 0.3], 1.0, lam=0.0)
    [0.2, 0.3, 1.0]
    """
    if not 0 <= lam <= 1 or not 0 <= gamma <= 1:
        raise ValueError(f"lam and gamma are in [0, 1]; got {lam} and {gamma}")
    if not q:
        return []
    targets = [float(reward)] * len(q)
    for t in range(len(q) - 2, -1, -1):
        targets[t] = gamma * ((1 - lam) * float(q[t + 1]) + lam * targets[t + 1])
    return targets


def td_lambda_forward(
    q: Sequence[float], reward: float, *, lam: float = 0.7, gamma: float = 1.0
) -> list[float]:
    """The same by its definition, the mixture of n-step returns. Quadratic in T: for checking.

    >>> td_lambda_forward([0.1, 0.2, 0.3], 1.0, lam=0.0)
    [0.2, 0.3, 1.0]
    """
    turns = len(q)
    targets = []
    for t in range(turns):
        left = turns - t - 1  # bootstrapped returns of 1..left steps, then the whole return
        mixture = sum(
            (1 - lam) * lam ** (n - 1) * gamma**n * float(q[t + n]) for n in range(1, left + 1)
        )
        targets.append(mixture + lam**left * gamma**left * float(reward))
    return targets


def monte_carlo(turns: int, reward: float, *, gamma: float = 1.0) -> list[float]:
    """Discounted return at every turn, (turns,): gamma ** (T - t - 1) * r.

    >>> monte_carlo(3, 1.0, gamma=0.5)
    [0.25, 0.5, 1.0]
    """
    return [gamma ** (turns - t - 1) * float(reward) for t in range(turns)]
