"""Losses of the value model, as pure functions over tensors. Knows nothing of networks.

Shapes: P agent turns, C logits of the head (1, or the bins of a categorical head), E trajectories.
Each gives a loss a turn (or a pair), not their mean: whoever adds up several batches knows what to
divide by.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from critic.logits import bin_middles, bin_values


def squared_error(raw_PC: Tensor, targets_P: Tensor) -> Tensor:
    """(sigmoid(raw) - target)^2, (P,): the paper's L2 (Zainullina et al., ICML 2025), of a value
    that is kept in [0, 1]."""
    return (torch.sigmoid(raw_PC.squeeze(-1)) - targets_P).square()


def cross_entropy(raw_PC: Tensor, targets_P: Tensor) -> Tensor:
    """Binary cross-entropy of sigmoid(raw) and a target in [0, 1], (P,)."""
    return functional.binary_cross_entropy_with_logits(
        raw_PC.squeeze(-1), targets_P, reduction="none"
    )


def categorical(raw_PC: Tensor, targets_P: Tensor, *, spread: float = 0.75) -> Tensor:
    """HL-Gauss, (P,): cross-entropy to a Gaussian about the target, put into C equal bins
    (``critic.logits.bin_middles``); ``spread`` is its deviation in widths of a bin (Farebrother et
    al., "Stop Regressing", ICML 2024, section 3.1)."""
    return functional.cross_entropy(
        raw_PC, gaussian_bins(targets_P, raw_PC.shape[-1], spread=spread), reduction="none"
    )


def gaussian_bins(targets_P: Tensor, bins: int, *, spread: float = 0.75) -> Tensor:
    """The probability of each bin, (P, bins), under a Gaussian about the target."""
    middles = torch.tensor(bin_middles(bins), device=targets_P.device, dtype=targets_P.dtype)
    width = middles[1] - middles[0]
    edges = torch.cat([middles - width / 2, middles[-1:] + width / 2])
    z = (edges - targets_P.unsqueeze(-1)) / (spread * width)
    below = torch.special.ndtr(z)
    mass = below[:, 1:] - below[:, :-1]
    probabilities: Tensor = mass / mass.sum(-1, keepdim=True)
    return probabilities


def expectation(raw_PC: Tensor) -> Tensor:
    """Q of a categorical head, (P,): the mean of its bins' values under softmax(raw)."""
    values = bin_values(raw_PC.shape[-1])
    return raw_PC.softmax(-1) @ torch.tensor(values, device=raw_PC.device, dtype=raw_PC.dtype)


def logits(raw_PC: Tensor) -> Tensor:
    """What orders as Q does and has no bounds, (P,): the logit of one label, or that of the Q of a
    categorical head."""
    if raw_PC.shape[-1] == 1:
        return raw_PC.squeeze(-1)
    return torch.logit(expectation(raw_PC), eps=1e-6)


def ordering(logits_E: Tensor, reward_E: Tensor, tasks: list[str]) -> Tensor:
    """One loss for each pair of trajectories of one task of which one earned more, (pairs,):
    -log sigmoid of the difference of the logits of their Q (Bradley and Terry). Only differences
    within a task decide what is chosen, and how hard a task is cancels out of them."""
    pairs = unequal_pairs(reward_E.tolist(), tasks)
    first, second = ([pair[at] for pair in pairs] for at in (0, 1))
    return -functional.logsigmoid(logits_E[first] - logits_E[second])


def unequal_pairs(rewards: Sequence[float], tasks: Sequence[str]) -> list[tuple[int, int]]:
    """Positions of trajectories of one task, the first of which earned more.

    >>> unequal_pairs([1.0, 0.0, 0.0], ["a", "a", "b"])
    [(0, 1)]
    """
    places = range(len(tasks))
    return [(i, j) for i in places for j in places
            if tasks[i] == tasks[j] and rewards[i] > rewards[j]]  # fmt: skip
