"""Ablation: one critic for each value of each setting and each seed, all else being equal, judged
on trajectories of tasks that none of them was trained on. Knows nothing of pages or plots.

Each critic is a folder of its own (``lam=0.5-seed1``) with what it was found to be in
``result.json``: what is there is not made again, and what was cut short is taken up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import to_json

from critic.errors import CriticInputError
from critic.evaluation import auc, brier, ece, within_task
from critic.files import write_whole
from critic.judged import Judged, by_task, judge
from critic.judges import Local
from critic.scoring import Scorer
from critic.selecting import chosen_by_score
from critic.settings import TrainingSettings
from critic.splitting import some_tasks
from critic.statistics import Estimate, bootstrap, difference, success
from critic.training import Progress, train
from critic.trajectory import Trajectory
from pilotfish.errors import first_wrong

DATA = "data"
"""The factor that is no setting: the share of the tasks trained on."""
NS = (5, 10)
HALF = 0.5
_RESULT = "result.json"

Trajectories = Callable[[], Iterable[Trajectory]]
"""Gives them anew each time."""


@dataclass(frozen=True)
class Cell:
    """One critic of the ablation."""

    factor: str
    """``base`` for the one that the others are compared with."""
    value: str
    seed: int
    settings: TrainingSettings
    data: float = 1.0

    @property
    def name(self) -> str:
        return _name(self.factor, self.value, self.seed)


BASE = "base"


def _name(factor: str, value: str, seed: int) -> str:
    return f"{factor if factor == BASE else f'{factor}={value}'}-seed{seed}"


class Found(BaseModel):
    """What one critic was found to be (``result.json``)."""

    about: str = ""
    """Of what it was made and judged: results of other data or settings are not mixed."""
    factor: str
    value: str
    seed: int
    metrics: dict[str, float | None]
    best_of: dict[int, dict[str, float]]
    """Expected success of the critic's choice of N, by N and task."""
    trained: dict[str, float | None] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its folder's."""
        return _name(self.factor, self.value, self.seed)


class Compared(BaseModel):
    """One value of one factor over its seeds."""

    factor: str
    value: str
    seeds: int
    metrics: dict[str, float]
    """Mean over seeds."""
    best_of: dict[int, Estimate]
    """Mean over seeds, with the interval over tasks and seeds."""
    by_seed: dict[int, list[float]]
    beyond_base: dict[int, Estimate]
    """Less the base's, paired by task and seed; both means over those that both have."""


def cells(
    vary: Mapping[str, Sequence[Any]], base: TrainingSettings, seeds: Sequence[int]
) -> list[Cell]:
    """The base and each other value of each factor, all of one seed before those of the next.

    Raises: ``CriticInputError`` for a factor that is no setting, or a value that it cannot have.
    """
    found: list[Cell] = []
    for seed in seeds:
        own = base.model_copy(update={"seed": seed})
        found.append(Cell(BASE, "", seed, own))
        for factor, values in vary.items():
            for value in values:
                cell = _cell(factor, value, own)
                if cell.settings != own or cell.data != 1.0:
                    found.append(cell)
    return found


def _cell(factor: str, value: Any, base: TrainingSettings) -> Cell:
    if factor == DATA:
        try:
            share = float(value)
        except (TypeError, ValueError):
            share = math.nan
        if not 0 < share <= 1:
            raise CriticInputError(f"data is a share of the tasks in (0, 1]; got {value}")
        return Cell(factor, str(value), base.seed, base, data=share)
    if factor not in TrainingSettings.model_fields:
        known = ", ".join([DATA, *TrainingSettings.model_fields])
        raise CriticInputError(f"{factor!r} is no setting; there are: {known}")
    try:
        settings = TrainingSettings.model_validate(base.model_dump() | {factor: value})
    except ValidationError as error:
        raise CriticInputError(f"{factor}={value}: {first_wrong(error.errors())[1]}") from error
    return Cell(factor, str(value), base.seed, settings)


def run_cell(
    cell: Cell,
    init: Path,
    trajectories: Trajectories,
    judged_on: Trajectories,
    folder: Path,
    *,
    about: str = "",
    progress: Progress = lambda step, steps, metrics: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Found | None:
    """Train and judge one critic, unless it was. ``None`` if it was stopped. ``about`` names the
    data.

    Raises: ``CriticInputError`` where its folder has a result of other data or settings.
    """
    if found := result_of(cell, folder, about=about):
        return found
    out = folder / cell.name
    trained_file = out / "trained.json"
    about = _about(cell, about)
    trained = json.loads(trained_file.read_text()) if trained_file.exists() else {}
    if trained.pop("about", None) != about:
        data = some_tasks(trajectories(), cell.data, salt=DATA)
        trained = train(init, data, out, cell.settings, progress=progress, stopped=stopped)
        if "stopped" in trained:
            return None
        write_whole(trained_file, to_json({"about": about, **trained}, inf_nan_mode="null"))
    first_attempts = (t for t in judged_on() if t.attempt == 0)
    found = found_of(cell, list(judge(Local(Scorer(out)), first_attempts)))
    found.about, found.trained = about, trained
    write_whole(out / _RESULT, found.model_dump_json(indent=1))
    return found


def result_of(cell: Cell, folder: Path, *, about: str = "") -> Found | None:
    """What a critic was found to be; ``None`` where it was not yet.

    Raises: ``CriticInputError`` where its folder has a result of other data or settings.
    """
    result = folder / cell.name / _RESULT
    if not result.exists():
        return None
    found = _read(result)
    if found.about != _about(cell, about):
        raise CriticInputError(
            f"{result} is of other data or settings: give those again, or another --out"
        )
    return found


def _about(cell: Cell, data: str) -> str:
    return f"{data} data={cell.data:g} {cell.settings.model_dump_json()}"


def found_of(cell: Cell, judged: Sequence[Judged]) -> Found:
    """What the trajectories that it judged say of a critic."""
    if not judged:
        raise CriticInputError("no trajectory to judge on has a reward")
    won = [one.won for one in judged]
    names = [one.task_id for one in judged]
    metrics: dict[str, float | None] = {}
    for told, share in (("half", HALF), ("last", 1.0)):
        q = [one.q_at(share) for one in judged]
        metrics |= {
            f"auc_{told}": _finite(auc(q, won)),
            f"within_task_{told}": _finite(within_task(names, q, won)),
            f"brier_{told}": brier(q, won),
            f"ece_{told}": ece(q, won),
        }
    tasks = by_task(judged)
    best = {
        n: {task: chosen_by_score(own, n) for task, own in tasks.items() if len(own) >= n}
        for n in (1, *NS)
    }
    return Found(
        factor=cell.factor,
        value=cell.value,
        seed=cell.seed,
        metrics=metrics,
        best_of={n: by for n, by in best.items() if by},
    )


def compare(found: Sequence[Found], *, draws: int = 2000) -> list[Compared]:
    """Every value of every factor beside the base, in the order in which they come."""
    groups: dict[tuple[str, str], dict[int, Found]] = {}
    for one in found:
        groups.setdefault((one.factor, one.value), {})[one.seed] = one
    base = groups.get((BASE, ""), {})
    return [_compared(group, base, draws) for group in groups.values()]


def _compared(group: dict[int, Found], base: dict[int, Found], draws: int) -> Compared:
    every = list(group.values())
    some = every[0]
    paired = sorted(group.keys() & base.keys())
    options: dict[str, Any] = {"draws": draws, "drawn": "seeds"}
    best, beyond, by_seed = {}, {}, {}
    for n in some.best_of:
        if not (tasks := _tasks(every, n)):
            continue
        best[n] = bootstrap(success, _table(every, n, tasks), **options)
        by_seed[n] = [float(np.mean(list(group[seed].best_of[n].values()))) for seed in group]
        ours, theirs = ([found[seed] for seed in paired] for found in (group, base))
        if paired and (common := _tasks([*ours, *theirs], n)):
            beyond[n] = difference(_table(ours, n, common), _table(theirs, n, common), **options)
    return Compared(
        factor=some.factor,
        value=some.value,
        seeds=len(group),
        metrics={name: _mean([one.metrics[name] for one in every]) for name in some.metrics},
        best_of=best,
        by_seed=by_seed,
        beyond_base=beyond,
    )


def _tasks(found: Sequence[Found], n: int) -> list[str]:
    """Those that all have judged: a critic that reads less may have judged fewer."""
    return sorted(set.intersection(*(set(one.best_of.get(n, {})) for one in found)))


def _table(found: Sequence[Found], n: int, tasks: Sequence[str]) -> np.ndarray:
    """What is expected of each task by each seed, (tasks, seeds)."""
    return np.array([[one.best_of[n][task] for one in found] for task in tasks])


def read_found(folder: Path) -> Iterator[Found]:
    """All results in an ablation's folder, by name. Raises: ``CriticInputError``."""
    for path in sorted(folder.glob(f"*/{_RESULT}")):
        yield _read(path)


def _read(result: Path) -> Found:
    try:
        return Found.model_validate_json(result.read_text())
    except ValidationError as error:
        told = first_wrong(error.errors())[1]
        raise CriticInputError(f"{result} is no result, remove it: {told}") from error


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
