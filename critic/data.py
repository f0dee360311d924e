"""From trajectories to batches. Knows nothing of networks or targets."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from critic.errors import HistoryTooLong
from critic.rendering import Renderer
from critic.trajectory import Trajectory

WINDOW = 256
"""Examples that are sorted by length together."""


class Tokens(Protocol):
    """Whatever is batched by its length."""

    @property
    def ids(self) -> Sequence[int]: ...


T = TypeVar("T", bound=Tokens)


@dataclass(frozen=True)
class Example:
    """One trajectory, ready to train on."""

    task_id: str
    ids: list[int]
    """(tokens,)"""
    turn_ends: list[int]
    """(turns,)"""
    reward: float


@dataclass(frozen=True)
class Batch:
    """Some examples, padded on the right."""

    examples: list[Example]
    ids_BL: Tensor
    mask_BL: Tensor
    at_P2: Tensor
    """(positions, 2): row and position of every agent turn's end, example by example."""


@dataclass(frozen=True)
class Prepared:
    """Examples, and what was left out and why."""

    examples: list[Example]
    unrewarded: int
    too_long: int


def prepare(trajectories: Iterable[Trajectory], renderer: Renderer) -> Prepared:
    """Render trajectories. Those without a reward or an agent turn, and those too long for the
    critic, are left out and counted."""
    examples: list[Example] = []
    unrewarded = too_long = 0
    for trajectory in trajectories:
        if trajectory.reward is None or not trajectory.steps:
            unrewarded += 1
            continue
        try:
            rendered = renderer.render(trajectory.messages, policy=trajectory.policy)
        except HistoryTooLong:
            too_long += 1
            continue
        examples.append(
            Example(trajectory.task_id, rendered.ids, rendered.turn_ends, trajectory.reward)
        )
    return Prepared(examples, unrewarded, too_long)


def split_by_task(
    examples: Sequence[Example], share: float, *, seed: int = 0
) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples, split by task: all trajectories of a task are on one side,
    and the same side whatever other tasks there are."""
    train: list[Example] = []
    held_out: list[Example] = []
    for example in examples:
        (held_out if _chance(example.task_id, seed) < share else train).append(example)
    return train, held_out


def _chance(task_id: str, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed}/{task_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def batches(
    examples: Sequence[Example], budget: int, *, seed: int | None, pad_id: int
) -> list[Batch]:
    """Batches of at most ``budget`` tokens, as ``by_length`` groups them."""
    return [collate(group, pad_id) for group in by_length(examples, budget, seed=seed)]


def by_length(examples: Sequence[T], budget: int, *, seed: int | str | None) -> list[list[T]]:
    """Groups of at most ``budget`` tokens, padding counted (one example at least), of examples of
    similar length; in random order with a seed, by length without.

    With a seed, only the examples of a random window are sorted by length. Sorted all together,
    those of a group are also alike in outcome (a failure is longer), and every step pulls Q another
    way.
    """
    if seed is None:
        return _cut(examples, budget)
    rng = random.Random(seed)
    mixed = rng.sample(examples, len(examples))
    windows = (mixed[at : at + WINDOW] for at in range(0, len(mixed), WINDOW))
    groups = [group for window in windows for group in _cut(window, budget)]
    rng.shuffle(groups)
    return groups


def _cut(examples: Sequence[T], budget: int) -> list[list[T]]:
    groups: list[list[T]] = []
    for example in sorted(examples, key=lambda e: len(e.ids)):
        if not groups or len(example.ids) * (len(groups[-1]) + 1) > budget:
            groups.append([])
        groups[-1].append(example)
    return groups


def collate(examples: list[Example], pad_id: int) -> Batch:
    """Put examples into one batch."""
    length = max(len(e.ids) for e in examples)
    ids = torch.full((len(examples), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(examples), length), dtype=torch.long)
    at: list[tuple[int, int]] = []
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        mask[row, : len(example.ids)] = 1
        at += [(row, end) for end in example.turn_ends]
    return Batch(examples, ids, mask, torch.tensor(at))
