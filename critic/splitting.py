"""Which side of a split a task is on: a function of its name, whatever other tasks there are. Knows
nothing of what is split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar


class OfTask(Protocol):
    """Whatever belongs to a task."""

    @property
    def task_id(self) -> str: ...


T = TypeVar("T", bound=OfTask)


def is_held_out(task_id: str, share: float, *, seed: int = 0) -> bool:
    """Whether the task is among the share that is held out."""
    return _chance(str(seed), task_id) < share


def fold_of(task_id: str, folds: int, *, seed: int = 0) -> int:
    """Which of so many folds the task is in."""
    return int(_chance(f"fold/{seed}", task_id) * folds)


def some_tasks(found: Iterable[T], share: float, *, salt: str = "") -> Iterator[T]:
    """What belongs to about this share of the tasks; those of a smaller share are among those of a
    larger one. Of another ``salt`` they are others: a share of a share needs one of its own."""
    return (one for one in found if _chance(f"share/{salt}", one.task_id) < share)


def _chance(salt: str, task_id: str) -> float:
    """A number in [0, 1), spread evenly."""
    digest = hashlib.blake2b(f"{salt}/{task_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
