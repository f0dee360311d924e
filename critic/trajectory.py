"""Trajectory records on disk: JSON lines, one trajectory each. Knows nothing of models.

The record itself is the client's (``pilotfish.trajectory``), since it is also what is served.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from critic.errors import CriticInputError
from pilotfish.errors import first_wrong
from pilotfish.trajectory import SCHEMA_VERSION, Trajectory

__all__ = ["SCHEMA_VERSION", "Trajectory", "read_trajectories", "write_trajectories"]


def read_trajectories(path: str | Path) -> Iterator[Trajectory]:
    """Trajectories of a JSON lines file, one at a time.

    Raises: ``CriticInputError`` naming the line that is not a trajectory.
    """
    with Path(path).open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield Trajectory.model_validate_json(line)
            except ValidationError as error:
                told = first_wrong(error.errors())[1]
                raise CriticInputError(f"{path}:{number}: {told}") from error


def line_of(trajectory: Trajectory) -> str:
    """Its line in a file. Raises: ``ValueError`` for text that cannot be written, such as half of a
    surrogate pair."""
    return trajectory.model_dump_json(exclude_defaults=True) + "\n"


class TrajectoryFile:
    """A JSON lines file that is in its place only when all of it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fresh = path.with_name(f".{path.name}.tmp-{os.getpid()}")

    def __enter__(self) -> Self:
        if self.path.is_dir():
            raise CriticInputError(f"{self.path} is a folder; give a file")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._fresh.open("w", encoding="utf-8")
        return self

    def write(self, line: str) -> None:
        """One that ``line_of`` gave."""
        self._file.write(line)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._file.close()
        if kind is None:
            self._fresh.replace(self.path)
        else:
            self._fresh.unlink(missing_ok=True)


def write_trajectories(path: str | Path, trajectories: Iterable[Trajectory]) -> int:
    """Append trajectories to a JSON lines file; returns how many."""
    count = 0
    with Path(path).open("a", encoding="utf-8") as out:
        for trajectory in trajectories:
            out.write(line_of(trajectory))
            count += 1
    return count
