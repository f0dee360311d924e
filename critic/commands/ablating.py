"""``ablate``: what each setting of a critic's training is worth."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer
from pydantic_core import to_json

from critic.commands.shared import (
    AsJson,
    Data,
    Set,
    assigned,
    end_stopped,
    errors,
    interruptible,
    training_bar,
    trajectories_of,
)
from critic.errors import CriticInputError
from critic.settings import TrainingSettings


def ablate(
    init: Annotated[Path, typer.Option(exists=True, help="A causal LM, or a critic.")],
    data: Data,
    judge_on: Annotated[
        list[Path],
        typer.Option(exists=True, help="Trajectories of other tasks, to judge the critics on."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the critics and the report.")],
    vary: Annotated[
        list[str] | None, typer.Option(help="A setting and its values: lam=0,0.5,1; data=0.25,0.5.")
    ] = None,
    base: Set = None,
    share: Annotated[float, typer.Option(help="Share of the tasks in the data to use.")] = 1.0,
    seeds: Annotated[int, typer.Option(min=1, help="Critics of each value.")] = 3,
    part: Annotated[
        str, typer.Option(help="I/N: every N-th critic from the I-th; N processes share --out.")
    ] = "1/1",
    as_json: AsJson = False,
) -> None:
    """Train a critic for each value of each setting and each seed, judge all on the same
    trajectories, and report what each is worth. Ctrl-C stops it; the same command goes on."""
    from critic.ablation import cells, compare, result_of, run_cell
    from critic.reporting import ablation_plots, ablation_table
    from critic.splitting import some_tasks

    settings = TrainingSettings.model_validate(assigned(base))
    planned = cells(_varied(vary), settings, range(seeds))
    first, step = _part(part)
    out.mkdir(parents=True, exist_ok=True)
    _check_apart(init, data, judge_on)
    about = (
        f"{init.name} {_digest(init)} share={share:g} of {' '.join(map(_digest, data))} "
        f"judged on {' '.join(map(_digest, judge_on))}"
    )
    with interruptible() as interrupted:
        for number, cell in list(enumerate(planned, start=1))[first - 1 :: step]:
            errors.print(f"{number}/{len(planned)} {cell.name}")
            with training_bar() as show:
                done = run_cell(
                    cell,
                    init,
                    lambda: some_tasks(trajectories_of(data), share),
                    lambda: trajectories_of(judge_on),
                    out,
                    about=about,
                    progress=show,
                    stopped=interrupted.is_set,
                )
            if done is None:
                end_stopped()
    there = [result_of(cell, out, about=about) for cell in planned]
    found = [one for one in there if one is not None]
    if len(found) < len(planned):
        errors.print(f"{len(found)} of {len(planned)} are there; the other parts tell of all")
    compared = compare(found)
    told = to_json([row.model_dump() for row in compared], inf_nan_mode="null").decode()
    if compared:
        (out / "ablation.json").write_text(told + "\n")
        (out / "ablation.md").write_text(ablation_table(compared))
        ablation_plots(compared, out)
    print(told if as_json else ablation_table(compared))


def _digest(path: Path) -> str:
    """Tells a file from any other by its content; a model's folder by parts of its weights, of
    which training changes almost all."""
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        size = file.stat().st_size
        every = _BLOCK if file is path else max(_BLOCK, size // _BLOCKS)
        with file.open("rb") as opened:
            for at in range(0, size, every):
                opened.seek(at)
                digest.update(opened.read(_BLOCK))
    return digest.hexdigest()[:16]


_BLOCK, _BLOCKS = 65_536, 256


def _check_apart(init: Path, data: list[Path], judge_on: list[Path]) -> None:
    """Raises: ``CriticInputError`` where a task to judge on is one to train on."""
    from critic.checkpoint import read_trained_tasks

    trained, judged = ({t.task_id for t in trajectories_of(f)} for f in (data, judge_on))
    if both := judged & (trained | read_trained_tasks(init)):
        raise CriticInputError(
            f"{len(both)} tasks of --judge-on are in --data too, or --init was trained on them "
            f"({min(both)}, say): a critic is judged on other tasks"
        )


def _part(told: str) -> tuple[int, int]:
    """(i, n) of ``i/n``."""
    first, slash, step = told.partition("/")
    if not slash or not first.isdigit() or not step.isdigit() or not 1 <= int(first) <= int(step):
        raise CriticInputError(f"--part is I/N with I from 1 to N; got {told!r}")
    return int(first), int(step)


def _varied(vary: list[str] | None) -> dict[str, list[str | None]]:
    """Of ``NAME=A,B``; a name that comes twice has all its values."""
    found: dict[str, list[str | None]] = {}
    for pair in vary or ():
        name, equals, values = pair.partition("=")
        if not equals or not values:
            raise CriticInputError(f"{pair!r} is not NAME=VALUE,VALUE")
        found.setdefault(name.strip(), [])
        for value in values.split(","):
            found[name.strip()] += assigned([f"{name}={value}"]).values()
    if not found:
        raise CriticInputError("nothing to vary: give --vary lam=0,0.5,1, say")
    return found
