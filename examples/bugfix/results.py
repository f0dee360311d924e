"""Rollouts as tables: what an experiment's files say. Knows nothing of how they came about.

A *table* is (tasks, attempts), as ``critic.statistics`` wants it. In the default regime an attempt
is the first of its slot; until-submitted it is the last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from critic.statistics import Table

Regime = Literal["default", "until-submitted"]


@dataclass(frozen=True)
class Attempt:
    """What is counted of one trajectory."""

    task_id: str
    slot: int
    attempt: int
    submitted: bool
    reward: float
    lost: bool
    """Ended by the infrastructure: not the policy's, and not counted."""
    qs: list[float]
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Results:
    """One operator on all tasks; rows are in the order of ``tasks``."""

    tasks: list[str]
    outcomes: Table
    scores: Table
    """Rank by which selection chooses: last Q, plus 1 if it was submitted."""
    submitted: float
    extra_attempts: float
    """Attempts beyond the first, a slot."""
    tokens: float
    """Completion tokens of a slot, all candidates and attempts counted."""


def read_attempts(path: Path) -> Iterator[Attempt]:
    """The attempts of a file of trajectories."""
    with path.open() as lines:
        for line in lines:
            if line.strip():
                yield _attempt(json.loads(line))


def _attempt(row: dict[str, Any]) -> Attempt:
    steps = row.get("steps", [])
    status = row.get("exit_status")
    return Attempt(
        task_id=row["task_id"],
        slot=row.get("slot", 0),
        attempt=row.get("attempt", 0),
        submitted=status == "Submitted",
        reward=row.get("reward") or 0.0,
        lost=status in ("PolicyError", "SandboxError", "SandboxLost", "InternalError"),
        qs=[q for step in steps if (q := _chosen_q(step["decision"])) is not None],
        tokens=sum(c.get("tokens", 0) for s in steps for c in s["decision"]["candidates"]),
        seconds=row.get("seconds", 0.0),
    )


def _chosen_q(decision: dict[str, Any]) -> float | None:
    chosen = next(c for c in decision["candidates"] if c["index"] == decision["chosen"])
    q: float | None = chosen.get("q")
    return q


def results(files: Sequence[Path], regime: Regime, *, slots: int | None = None) -> Results:
    """The table of one operator; the slots of several files (seeds) stand side by side.

    ``slots`` uses only the first so many of each file. Raises: ``ValueError`` if tasks have
    different numbers of slots.
    """
    found: dict[str, dict[tuple[int, int], list[Attempt]]] = {}
    for seed, file in enumerate(files):
        for attempt in read_attempts(file):
            if attempt.lost or (slots is not None and attempt.slot >= slots):
                continue
            place = found.setdefault(attempt.task_id, {})
            place.setdefault((seed, attempt.slot), []).append(attempt)
    widths = {len(place) for place in found.values()}
    if len(widths) != 1:
        raise ValueError(f"tasks have different numbers of trajectories: {sorted(widths)}")
    tasks = sorted(found)
    chosen = [[_counted(found[t][key], regime) for key in sorted(found[t])] for t in tasks]
    made = [[_made(found[t][key], regime) for key in sorted(found[t])] for t in tasks]
    everything = [attempt for row in chosen for attempt in row]
    return Results(
        tasks=tasks,
        outcomes=np.array([[a.reward if a.submitted else 0.0 for a in row] for row in chosen]),
        scores=np.array([[_score(a) for a in row] for row in chosen]),
        submitted=float(np.mean([a.submitted for a in everything])),
        extra_attempts=float(np.mean([len(slot) - 1 for row in made for slot in row])),
        tokens=float(np.mean([sum(a.tokens for a in slot) for row in made for slot in row])),
    )


def _counted(attempts: list[Attempt], regime: Regime) -> Attempt:
    return _made(attempts, regime)[-1]


def _made(attempts: list[Attempt], regime: Regime) -> list[Attempt]:
    ordered = sorted(attempts, key=lambda a: a.attempt)
    return ordered[:1] if regime == "default" else ordered


def _score(attempt: Attempt) -> float:
    return (attempt.qs[-1] if attempt.qs else 0.0) + attempt.submitted


def q_by_progress(files: Sequence[Path], bins: int = 8) -> dict[str, list[float]]:
    """Mean Q of solved and of failed trajectories by share of their steps, in ``bins`` bins."""
    sums: dict[str, list[list[float]]] = {"solved": [[] for _ in range(bins)],
                                          "failed": [[] for _ in range(bins)]}  # fmt: skip
    for file in files:
        for attempt in read_attempts(file):
            kind = "solved" if attempt.reward > 0.5 else "failed"
            for i, q in enumerate(attempt.qs):
                share = i / max(1, len(attempt.qs) - 1)
                sums[kind][min(bins - 1, int(share * bins))].append(q)
    return {
        kind: [float(np.mean(q)) if q else float("nan") for q in columns]
        for kind, columns in sums.items()
    }


def last_qs(files: Sequence[Path]) -> tuple[list[float], list[float]]:
    """Last Q and reward of every submitted trajectory."""
    pairs = [
        (attempt.qs[-1], attempt.reward)
        for file in files
        for attempt in read_attempts(file)
        if attempt.submitted and attempt.qs
    ]
    return [q for q, _ in pairs], [reward for _, reward in pairs]
