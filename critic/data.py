"""From trajectories to batches. Knows nothing of networks or targets."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from critic.errors import HistoryTooLong, NotRendered
from critic.rendering import Rendered, Renderer
from critic.splitting import is_held_out
from critic.trajectory import Trajectory

WINDOW = 256
"""Examples that are sorted by length together."""


class Rows(Protocol):
    """Whatever is batched by its length: one or more rows of a batch."""

    @property
    def rows(self) -> int: ...
    @property
    def length(self) -> int:
        """Tokens of its longest row."""
        ...


T = TypeVar("T", bound=Rows)


@dataclass(frozen=True)
class Example:
    """One trajectory, ready to train on."""

    task_id: str
    ids: list[NDArray[np.int32]]
    """The tokens of each window: of one, where the critic reads the whole of it. They stay in one
    batch: the target of a turn takes the value of the next, which may be in another window."""
    turn_ends: list[list[int]]
    """Of each window."""
    reward: float

    @property
    def rows(self) -> int:
        return len(self.ids)

    @property
    def length(self) -> int:
        return max(map(len, self.ids))

    @property
    def turns(self) -> int:
        return sum(map(len, self.turn_ends))


def example_of(windows: Sequence[Rendered], task_id: str = "", reward: float = 0.0) -> Example:
    """A rendered trajectory as an example."""
    return Example(
        task_id,
        [np.asarray(window.ids, dtype=np.int32) for window in windows],
        [window.turn_ends for window in windows],
        reward,
    )


def windows_of(examples: Iterable[Example]) -> list[Example]:
    """Each window as an example of its own, in order."""
    return [
        example if example.rows == 1 else Example(example.task_id, [ids], [ends], example.reward)
        for example in examples
        for ids, ends in zip(example.ids, example.turn_ends, strict=True)
    ]


def passes_of(examples: Sequence[Example], budget: int) -> list[list[Example]]:
    """The same turns in the same order, in groups of at most ``budget`` tokens (one window at
    least): several only where a trajectory has many windows."""
    groups: list[list[Example]] = []
    longest = 0
    for window in windows_of(examples):
        longest = max(longest, window.length)
        if not groups or longest * (len(groups[-1]) + 1) > budget:
            groups.append([])
            longest = window.length
        groups[-1].append(window)
    return groups


@dataclass(frozen=True)
class Batch:
    """Some examples, padded on the right."""

    examples: list[Example]
    ids_BL: Tensor
    """B: the windows of all examples, example by example."""
    at_P2: Tensor
    """(positions, 2): row and position of every agent turn's end, example by example."""

    def to(self, device: torch.device) -> Batch:
        return Batch(self.examples, self.ids_BL.to(device), self.at_P2.to(device))


@dataclass(frozen=True)
class Prepared:
    """Examples, and what was left out and why."""

    examples: list[Example]
    unrewarded: int
    too_long: int
    refused: int
    policies: list[str]
    """Names of those whose examples they are, sorted."""

    @property
    def seen(self) -> int:
        return len(self.examples) + self.unrewarded + self.too_long + self.refused


def prepare(trajectories: Iterable[Trajectory], renderer: Renderer) -> Prepared:
    """Render trajectories. Those without a reward or an agent turn are left out and counted, and so
    are those of which a turn fits no window, and those that its chat template refuses."""
    examples: list[Example] = []
    unrewarded = too_long = refused = 0
    policies: set[str] = set()
    for trajectory in trajectories:
        if trajectory.reward is None or not trajectory.steps:
            unrewarded += 1
            continue
        try:
            windows = renderer.windows(trajectory.messages, policy=trajectory.policy)
        except HistoryTooLong:
            too_long += 1
            continue
        except NotRendered:
            refused += 1
            continue
        examples.append(example_of(windows, trajectory.task_id, trajectory.reward))
        policies.add(trajectory.policy)
    return Prepared(examples, unrewarded, too_long, refused, sorted(policies))


def split_by_task(
    examples: Sequence[Example], share: float, *, seed: int = 0
) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples, split by task: all trajectories of a task are on one side,
    and the same side whatever other tasks there are."""
    train: list[Example] = []
    held_out: list[Example] = []
    for example in examples:
        (held_out if is_held_out(example.task_id, share, seed=seed) else train).append(example)
    return train, held_out


@dataclass(frozen=True)
class Siblings:
    """Trajectories of one task, which stay in one batch so that they can be compared."""

    examples: list[Example]

    @property
    def rows(self) -> int:
        return sum(example.rows for example in self.examples)

    @property
    def length(self) -> int:
        return max(example.length for example in self.examples)


@dataclass(frozen=True)
class PlannedStep:
    """What one optimiser step reads."""

    epoch: int
    batches: list[list[Example]]
    last_of_epoch: bool


def plan_steps(
    examples: Sequence[Example],
    *,
    epochs: int,
    batch_tokens: int,
    step_tokens: int | None,
    processes: int = 1,
    together: int = 1,
    seed: int,
) -> list[PlannedStep]:
    """All steps of a training, a function of what is given. A batch has at most ``batch_tokens``,
    or one example; a step has as many as give ``step_tokens``, or one for each of ``processes``.
    ``together``: how many trajectories of a task stay in one batch, as far as it has so many."""
    units = siblings(examples, together, seed=seed)
    plan: list[PlannedStep] = []
    for epoch in range(epochs):
        groups = [
            [example for unit in group for example in unit.examples]
            for group in by_length(units, batch_tokens, seed=seed * 1000 + epoch)
        ]
        steps = _gathered(groups, step_tokens, processes)
        plan += [PlannedStep(epoch, step, step is steps[-1]) for step in steps]
    return plan


def siblings(examples: Sequence[Example], most: int, *, seed: int) -> list[Siblings]:
    """Groups of at most ``most`` examples of one task, in random company."""
    by_task: dict[str, list[Example]] = {}
    for example in examples:
        by_task.setdefault(example.task_id, []).append(example)
    rng = random.Random(seed)
    found = []
    for own in by_task.values():
        mixed = rng.sample(own, len(own))
        found += [Siblings(mixed[at : at + most]) for at in range(0, len(mixed), most)]
    return found


def _gathered(
    batches: list[list[Example]], tokens: int | None, count: int
) -> list[list[list[Example]]]:
    """Consecutive batches until they have ``tokens``, or ``count`` of them."""
    steps: list[list[list[Example]]] = [[]]
    held = 0
    for batch in batches:
        if len(steps[-1]) >= count if tokens is None else held >= tokens:
            steps.append([])
            held = 0
        steps[-1].append(batch)
        held += sum(len(window) for example in batch for window in example.ids)
    return steps


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
    rows = 0
    for example in sorted(examples, key=lambda e: e.length):
        if not groups or example.length * (rows + example.rows) > budget:
            groups.append([])
            rows = 0
        groups[-1].append(example)
        rows += example.rows
    return groups


def collate(examples: list[Example], pad_id: int) -> Batch:
    """Put examples into one batch."""
    rows = [window for example in examples for window in example.ids]
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.from_numpy(row)
    ends = [ends for example in examples for ends in example.turn_ends]
    at = [(number, end) for number, row_ends in enumerate(ends) for end in row_ends]
    return Batch(examples, ids, torch.tensor(at))
